package integration

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
)

// TestAttackOversized sends the longest values that the protocols can carry, and
// longer ones.
func TestAttackOversized(t *testing.T) {
	a := newAttack(t, options{users: users(t, "jo"), rules: func(_, _ endpoint) string {
		return "socksmethod: none username\nclient pass { from: 0/0 to: 0/0 }\nsocks pass { from: 0/0 to: 0/0 }\n"
	}})
	port := string(connectRequest(a.limited.String())[8:])
	const megabyte = 1 << 20
	login := func(user, password int) string {
		return "\x05\x01\x02\x01" + string(rune(user)) + strings.Repeat("u", user) + string(rune(password)) + strings.Repeat("p", password)
	}
	name := func(n int) string {
		label := strings.Repeat(strings.Repeat("n", 60)+".", 5)
		return "\x05\x01\x00\x05\x01\x00\x03" + string([]byte{byte(n)}) + label[:n] + port
	}
	const noSuchHost = "\x05\x00\x05\x04\x00???????"
	for _, c := range []struct{ name, sent, want, reason string }{
		{"SOCKS 4, user id", "\x04\x01" + port + "\x7f\x00\x00\x01" + strings.Repeat("u", 300), "\x00\x5b??????", "protocol"},
		{"SOCKS 4a, name", "\x04\x01" + port + "\x00\x00\x00\x01\x00" + strings.Repeat("n", 300), "\x00\x5b??????", "protocol"},
		{"method count", "\x05\xff" + strings.Repeat("\x7f", 255) + strings.Repeat("x", megabyte), "\x05\xff", "method"},
		{"no methods", "\x05\x00" + strings.Repeat("x", megabyte), "\x05\xff", "method"},
		{"user and password", "\x05\x01\x02\x01\xff" + strings.Repeat("u", 255) + "\xff" + strings.Repeat("p", 255), "\x05\x02\x01\x01", "auth"},
		{"password of a user", login(2, 100), "\x05\x02\x01\x01", "auth"},
		{"empty user", "\x05\x01\x02\x01\x00\x01p", "\x05\x02\x01\x01", "auth"},
		{"another login version", "\x05\x01\x02\x05\x02jo\x05pw-jo", "\x05\x02", "protocol"},
		{"254 bytes of a name", name(254), noSuchHost, "unresolved"},
		{"255 bytes of a name", name(255), noSuchHost, "unresolved"},
		{"a label of 64 bytes", "\x05\x01\x00\x05\x01\x00\x03\x40" + strings.Repeat("n", 64) + port, noSuchHost, "unresolved"},
		{"a control character", "\x05\x01\x00\x05\x01\x00\x03\x05a\r\nb." + port, noSuchHost, "unresolved"},
		{"a NUL", "\x05\x01\x00\x05\x01\x00\x03\x0alocalhost\x00" + port, noSuchHost, "protocol"},
		{"an address as a name with an end", "\x05\x01\x00\x05\x01\x00\x03\x0a127.0.0.1\x00" + port, noSuchHost, "protocol"},
		{"a request of anything", "\x05\x01\x00" + strings.Repeat("\xff", megabyte), "\x05\x00", "protocol"},
		{"TLS", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + strings.Repeat("x", megabyte), "", "protocol"},
		{"HTTP", "CONNECT " + a.limited.String() + " HTTP/1.1\r\nHost: x\r\n\r\n", "", "protocol"},
	} {
		before := len(a.refused(c.reason))
		if got := a.send(attackerSource, c.sent); !matches(got, c.want) {
			t.Errorf("%s: answered %q, want %q", c.name, got, c.want)
		}
		eventually(t, patience, func() string {
			if len(a.refused(c.reason)) != before+1 {
				return c.name + " is not logged as " + c.reason
			}
			return ""
		})
	}
}

// TestAttackSilentClients opens more connections than may negotiate. Some are silent,
// others send a byte now and then. Honest clients are served meanwhile, and all other
// connections end at the negotiation deadline.
func TestAttackSilentClients(t *testing.T) {
	const most, flood = 40, 400
	a := newAttack(t, options{rules: func(_, free endpoint) string {
		return "timeout.negotiate: 5\nclient pass { from: 0/0 to: 0/0 }\nsocks pass { from: 0/0 to: " + free.to() + " }\n"
	}, env: map[string]string{"USHER_MAX_NEGOTIATING": fmt.Sprint(most)}})
	starts := []string{"", "\x05", "\x05\x02\x00", "\x05\x01\x00\x05\x01", "\x04\x01\x00", "\x04\x01\x00\x50\x7f\x00\x00\x01user without end"}
	silent := make([]net.Conn, flood)
	c := client{proxy: a.r.socks, from: netip.MustParseAddr(attackerSource)}
	together(flood, func(i int) {
		conn, err := c.dial()
		if err != nil {
			t.Error(err)
			return
		}
		silent[i] = conn
		io.WriteString(conn, starts[i%len(starts)]) //nolint:errcheck // it may be turned away at once
	})
	for range 20 {
		a.honest()
	}
	var ended sync.WaitGroup
	for _, conn := range silent {
		if conn == nil {
			continue
		}
		ended.Go(func() {
			defer conn.Close()
			if _, err := io.Copy(io.Discard, conn); err != nil && !reset(err) {
				t.Errorf("a silent client is not cut off: %v", err)
			}
		})
	}
	ended.Wait()
	eventually(t, patience, func() string { // a session is counted after its connection is closed
		m := a.r.metrics(t)
		crowded, late := m.sum("usher_sessions_rejected_total", `reason="crowded"`), m.sum("usher_sessions_rejected_total", `reason="negotiation_timeout"`)
		if turned := m.sum("usher_clients_turned_away_total", `reason="negotiating"`); turned != crowded || crowded+late != flood || late > most {
			return fmt.Sprintf("%v clients are turned away, %v sessions end as crowded and %v by the deadline: want %d in all, and at most %d by the deadline", turned, crowded, late, flood, most)
		}
		return ""
	})
}

// TestAttackPasswords guesses passwords from one address, then from many. The answers
// are the same for users who exist and users who do not. After ten failures for a user,
// the address is refused as that user, even with the right password. After a hundred
// failures, it is refused as any user.
func TestAttackPasswords(t *testing.T) {
	a := newAttack(t, options{users: users(t, "jo", "honest"), rules: func(_, free endpoint) string {
		return "socksmethod: username none\nclient pass { from: " + honestSource + "/32 to: 0/0 }\n" +
			"client pass { from: 0/0 to: 0/0 socksmethod: username }\nsocks pass { from: 0/0 to: " + free.to() + " }\n"
	}})
	login := func(from, user, password string) string {
		return a.send(from, "\x05\x01\x02\x01"+string(rune(len(user)))+user+string(rune(len(password)))+password)
	}
	const refused = "\x05\x02\x01\x01"
	for i := range 20 {
		user := []string{"jo", "nobody"}[i%2]
		if got := login(attackerSource, user, "guess"); got != refused {
			t.Errorf("a wrong password of %s is answered %q, want %q", user, got, refused)
		}
	}
	a.wantRefused("auth", 20, attackerSource)
	for i := range 5 {
		if got := login(attackerSource, []string{"jo", "nobody"}[i%2], "pw-jo"); got != refused {
			t.Errorf("after ten wrong passwords the right one is answered %q, want %q", got, refused)
		}
	}
	a.wantRefused("auth_throttle", 5, attackerSource)
	neighbour := client{proxy: a.r.socks, from: netip.MustParseAddr(attackerSource), user: "honest", password: "pw-honest"}
	if got := neighbour.connect(a.free.String()); got.reply != granted {
		t.Errorf("another user of the same address: reply %d, %v", got.reply, got.err)
	} else {
		got.Close()
	}
	for i := range 80 {
		if got := login(attackerSource, fmt.Sprintf("user%d", i), "guess"); got != refused {
			t.Errorf("a wrong password is answered %q, want %q", got, refused)
		}
	}
	if got := login(attackerSource, "honest", "pw-honest"); got != refused {
		t.Errorf("after a hundred wrong passwords of many users the right one of another is answered %q, want %q", got, refused)
	}
	a.wantRefused("auth_throttle", 6, attackerSource)
	if n := a.r.metrics(t).sum("usher_auth_attempts_total", `result="throttled"`); n != 6 {
		t.Errorf("%v logins are counted as throttled, want 6", n)
	}
	// The login cannot be avoided by another method.
	target := string(connectRequest(a.free.String()))
	for sent, want := range map[string]string{
		"\x05\x01\x00" + target:                                "\x05\xff",
		"\x04\x01" + target[8:] + "\x7f\x00\x00\x01jo\x00":     "\x00\x5b??????",
		"\x05\x02\x00\x01" + target:                            "\x05\xff",
		"\x05\x01\x02" + target:                                "\x05\x02", // a request instead of the login
		"\x05\x01\x02\x01\x02jo\x05pw-jo"[:3] + "\x01\x00\x00": refused,
	} {
		if got := a.send("127.0.8.2", sent); !matches(got, want) {
			t.Errorf("%q is answered %q, want %q", sent, got, want)
		}
	}
	together(60, func(i int) { // and from many addresses
		from := fmt.Sprintf("127.0.8.%d", 10+i/3)
		if got := login(from, []string{"jo", "nobody"}[i%2], "guess"); got != refused {
			t.Errorf("a wrong password from %s is answered %q, want %q", from, got, refused)
		}
	})
	honest := client{proxy: a.r.socks, from: netip.MustParseAddr("127.0.7.2"), user: "honest", password: "pw-honest"}
	got := honest.connect(a.free.String())
	if !got.relays() {
		t.Errorf("an honest login: reply %d, %v", got.reply, got.err)
	}
	if got.Conn != nil {
		got.Close()
	}
	if log := a.r.proc.out.String(); strings.Contains(log, "pw-") || strings.Contains(log, "guess") {
		t.Error("the log shows a password")
	}
}

// TestAttackReload reloads broken files while clients ask without pause. The old rules
// and users stay in force: the limit stays full, and nobody gets in without a login.
func TestAttackReload(t *testing.T) {
	const limit = 5
	a := newAttack(t, options{users: users(t, "jo"), rules: func(limited, free endpoint) string {
		return fmt.Sprintf(`socksmethod: username none
client pass { from: %s/32 to: 0/0 }
client pass { from: 0/0 to: 0/0 socksmethod: username }
socks pass { from: 0/0 to: %s maxsessions: %d }
socks pass { from: 0/0 to: %s }
`, honestSource, limited.to(), limit, free.to())
	}})
	c := client{proxy: a.r.socks, from: netip.MustParseAddr(attackerSource), user: "jo", password: "pw-jo"}
	held := c.ask(t, limit, a.limited.String())
	held.want(t, limit, granted)
	ceaseFire := a.fire(c)
	good, loaded := readFile(t, a.ruleFile), a.r.status(t).Rules.Loaded
	for _, broken := range []string{
		"socks pass { from: 0/0 to: 0/0 }\nclient pass { from: 0/0 to: 0/0\n", // no end
		good + "\nsocks pass { from: 0/0 to: 10.0.0.0/99 }\n",
		strings.Repeat("socks pass { from: 0/0 to: 0/0 }\n", 1000) + "\x00\xff",
		"socksmethod: none\nclient pass { from: 0/0 to: 0/0 user: nobody }\n",
		strings.Repeat("{", 1<<20),
	} {
		a.writeRules(broken)
		said := len(a.r.proc.out.String())
		a.r.signal(syscall.SIGHUP)
		eventually(t, patience, func() string {
			if !strings.Contains(a.r.proc.out.String()[said:], `"reload failed, keeping the old rules"`) {
				return "a broken file is not refused"
			}
			return ""
		})
		a.honest()
		if st, m := a.r.status(t), a.r.metrics(t); st.Rules.ReloadOK || !st.Rules.Loaded.Equal(loaded) || m.sum("usher_config_last_reload_successful") != 0 {
			t.Errorf("a broken file counts as a successful reload: %+v", st.Rules)
		}
	}
	if err := os.Remove(a.ruleFile); err != nil {
		t.Fatal(err)
	}
	for range 20 {
		a.r.signal(syscall.SIGHUP)
		a.honest()
	}
	a.reload(good, true)
	if ceaseFire() == 0 {
		t.Error("nobody asked during the reloads")
	}
	if !strings.Contains(a.r.proc.out.String(), a.ruleFile+":7:") {
		t.Error("the log names no line of the broken file")
	}
	held.want(t, limit, granted)
	held.close()
	a.waitNoSlots(t)
	c.ask(t, limit+3, a.limited.String()).want(t, limit, notAllowed)
}

// fire lets clients ask for the full target without pause, half of them as c and half
// without a login, until the returned function is called. It returns how often they
// asked. Each must be refused for its own reason.
func (a *attack) fire(c client) (cease func() (asked int64)) {
	var stop atomic.Bool
	var asked atomic.Int64
	var asking sync.WaitGroup
	for i := range 20 {
		c, want := c, notAllowed
		if i%2 == 0 {
			c.user, want = "", noMethod
		}
		asking.Go(func() {
			for !stop.Load() {
				got := c.connect(a.limited.String())
				if asked.Add(1); got.reply != want {
					a.t.Errorf("user %q: reply %d, %v, want %d", c.user, got.reply, got.err, want)
					stop.Store(true)
				}
				if got.Conn != nil {
					got.Close()
				}
			}
		})
	}
	cease = func() int64 {
		stop.Store(true)
		asking.Wait()
		return asked.Load()
	}
	a.t.Cleanup(func() { cease() })
	return cease
}
