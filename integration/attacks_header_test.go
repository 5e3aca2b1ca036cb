package integration

import (
	"fmt"
	"net"
	"strings"
	"testing"
)

const signature = "\r\n\r\n\x00\r\nQUIT\n" // of a PROXY header of version 2

// localHeaders are PROXY headers of kind LOCAL: as balancers send it, and with
// addresses, which are allowed and must be ignored.
var localHeaders = []string{
	signature + "\x20\x00\x00\x00",
	signature + "\x20\x11\x00\x0c\x7f\x00\x05\x05\x7f\x00\x00\x01\x11\x5c\x04\x38",
}

// requests are one of each command and version, with the answers if it is granted and
// if it is refused. ? is any byte.
func requests(target endpoint) map[string]struct{ bytes, granted, refused string } {
	const granted5, refused5 = "\x05\x00\x05\x00\x00\x01??????", "\x05\x00\x05\x02\x00?????" + "??"
	to := string(connectRequest(target.String()))
	return map[string]struct{ bytes, granted, refused string }{
		"CONNECT":           {"\x05\x01\x00" + to, granted5, refused5},
		"CONNECT, SOCKS 4":  {"\x04\x01" + to[len(to)-2:] + "\x7f\x00\x00\x01\x00", "\x00\x5a??????", "\x00\x5b??????"},
		"CONNECT, SOCKS 4a": {"\x04\x01" + to[len(to)-2:] + "\x00\x00\x00\x01\x00localhost\x00", "\x00\x5a??????", "\x00\x5b??????"},
		"BIND":              {"\x05\x01\x00" + string(request(2, "0.0.0.0:0")), granted5, refused5},
		"BIND, SOCKS 4":     {"\x04\x02\x00\x00\x7f\x00\x00\x01\x00", "\x00\x5a??????", "\x00\x5b??????"},
		"UDP ASSOCIATE":     {"\x05\x01\x00" + string(request(3, "0.0.0.0:0")), granted5, refused5},
	}
}

// TestAttackLocalHeader sends requests after a header of kind LOCAL, which marks health
// checks. Such requests count in the limit. The log, status and metrics show them with
// the address of the connection.
func TestAttackLocalHeader(t *testing.T) {
	const attempts, limit = 20, 2
	for name, q := range requests(endpoint{"127.0.0.1", 1}) {
		t.Run(name, func(t *testing.T) {
			a := newAttack(t, options{rules: func(limited, free endpoint) string {
				return fmt.Sprintf(`
client pass { from: 0/0 to: 0/0 }
socks pass { from: %s/32 to: 0/0 maxsessions: %d }
socks pass { from: %s/32 to: %s }
`, balancerSource, limit, honestSource, free.to())
			}})
			q = requests(a.limited)[name]
			var held []net.Conn
			for i := range attempts {
				conn, got := a.open(balancerSource, localHeaders[i%2]+q.bytes, len(q.granted))
				switch {
				case matches(got, q.granted):
					held = append(held, conn)
				case !matches(got, q.refused):
					t.Errorf("attempt %d: answered %q, want %q", i, got, q.refused)
				}
			}
			if len(held) != limit {
				t.Errorf("%d of %d are granted, want %d", len(held), attempts, limit)
			}
			a.honest()
			a.wantRefused("limit", attempts-limit, balancerSource)
			eventually(t, patience, func() string {
				st := a.r.status(t)
				if st.Sessions != limit || st.counted(true) != limit {
					return fmt.Sprintf("status shows %d sessions, and %d of the limit, want %d", st.Sessions, st.counted(true), limit)
				}
				return ""
			})
			for _, conn := range held {
				conn.Close()
			}
		})
	}
}

// TestAttackLocalHeaderIsJudged checks that client-rules and login apply to connections
// that send LOCAL and then a request.
func TestAttackLocalHeaderIsJudged(t *testing.T) {
	for _, c := range []struct {
		name, rules, reason string
		five, four          string // what is answered
		logged              int    // sessions; a greeting without a common method may be a check
	}{
		{"blocked", "client block { from: " + balancerSource + "/32 to: 0/0 }\n", "blocked", "\x05\x00", "", 12},
		{"no rule", "", "blocked", "\x05\x00", "", 12},
		{"login", "client pass { from: " + balancerSource + "/32 to: 0/0 socksmethod: username }\n", "method", "\x05\xff", "\x00\x5b??????", 6},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := newAttack(t, options{users: users(t, "jo"), rules: func(_, _ endpoint) string {
				return "socksmethod: none username\n" + c.rules +
					"client pass { from: " + honestSource + "/32 to: 0/0 }\nsocks pass { from: 0/0 to: 0/0 }\n"
			}})
			for name, q := range requests(a.limited) {
				want := c.five
				if q.bytes[0] == 4 {
					want = c.four
				}
				for _, head := range localHeaders {
					if got := a.send(balancerSource, head+q.bytes); !matches(got, want) {
						t.Errorf("%s: answered %q, want %q", name, got, want)
					}
				}
			}
			a.honest()
			a.wantRefused(c.reason, c.logged, balancerSource)
		})
	}
}

// TestAttackForgedHeader names the address of another client in a PROXY header: from an
// address that is not a balancer, and in a second header after the balancer's.
func TestAttackForgedHeader(t *testing.T) {
	a := newAttack(t, options{rules: func(limited, free endpoint) string {
		return fmt.Sprintf(`
client pass { from: 0/0 to: 0/0 }
socks pass { from: 127.0.5.5/32 to: 0/0 }
socks pass { from: %s/32 to: %s }
`, honestSource, free.to())
	}})
	const (
		v1   = "PROXY TCP4 127.0.5.5 127.0.0.1 4444 1080\r\n"
		v2   = signature + "\x21\x11\x00\x0c\x7f\x00\x05\x05\x7f\x00\x00\x01\x11\x5c\x04\x38"
		mine = "PROXY TCP4 " + attackerSource + " 127.0.0.1 4444 1080\r\n"
	)
	request := "\x05\x01\x00" + string(connectRequest(a.limited.String()))
	foreign := append([]string{v1, v2, "PROXY UNKNOWN\r\n"}, localHeaders...)
	for _, head := range foreign {
		if got := a.send(attackerSource, head+request); got != "" {
			t.Errorf("from an address that is no balancer's: %q is answered %q", head, got)
		}
	}
	a.honest()
	a.wantRefused("proxy_header", len(foreign), attackerSource)
	for _, head := range foreign {
		if got := a.send(balancerSource, mine+head+request); got != "" {
			t.Errorf("behind the balancer's header: %q is answered %q", head, got)
		}
	}
	a.honest()
	a.wantRefused("proxy_header", 2*len(foreign), attackerSource)
	if got := a.send(balancerSource, mine+request); got != "\x05\x00\x05\x02\x00\x01\x00\x00\x00\x00\x00\x00" {
		t.Errorf("the attacker by its own address is answered %q, want reply 2", got)
	}
	a.wantRefused("blocked", 1, attackerSource)
}

// TestAttackMalformedHeader sends malformed headers from the balancer's address.
func TestAttackMalformedHeader(t *testing.T) {
	a := newAttack(t, options{rules: standard(5)})
	request := "\x05\x01\x00" + string(connectRequest(a.limited.String()))
	heads := []string{
		"PROXY TCP4 127.0.5.5" + strings.Repeat(" ", 1<<20), // no end
		"PROXY TCP4 999.0.5.5 127.0.0.1 4444 1080\r\n",
		"PROXY TCP4 127.0.5.5 127.0.0.1 4444 99999\r\n",
		"PROXY TCP4 2001:db8::1 127.0.0.1 4444 1080\r\n",
		signature + "\x21\x11\xff\xff" + strings.Repeat("x", 1<<16),                    // longer than any
		signature + "\x21\x11\x00\x04\x7f\x00\x05\x05",                                 // shorter than its addresses
		signature + "\x21\x12\x00\x0c\x7f\x00\x05\x05\x7f\x00\x00\x01\x11\x5c\x04\x38", // of UDP
		signature + "\x2f\x11\x00\x0c\x7f\x00\x05\x05\x7f\x00\x00\x01\x11\x5c\x04\x38", // unknown command
		signature + "\x31\x11\x00\x0c\x7f\x00\x05\x05\x7f\x00\x00\x01\x11\x5c\x04\x38", // version 3
		"\r\n\r\n\x00\r\nQUIT\r\x21\x11\x00\x00",                                       // another signature
		"",                                                                             // none at all
	}
	for _, head := range heads {
		if got := a.send(balancerSource, head+request); got != "" {
			t.Errorf("%.60q is answered %q", head, got)
		}
	}
	a.honest()
	a.wantRefused("proxy_header", len(heads), balancerSource)
}
