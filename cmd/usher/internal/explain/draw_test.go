package explain

import (
	"fmt"
	"net/netip"
	"strings"

	"pgregory.net/rapid"

	"usher/proxy/socks"
)

// drawRules draws a rule file, and the addresses of its external: lines.
func (r *rig) drawRules(t *rapid.T) (text string, external []netip.Addr) {
	of := func(choices ...string) string { return rapid.SampledFrom(choices).Draw(t, "word") }
	port := func() string {
		return of("", "", "", fmt.Sprintf(" port = %d", r.port), fmt.Sprintf(" port != %d", r.port), " port > 1023", " port < 1024")
	}
	var b strings.Builder
	b.WriteString(of("", "socksmethod: none\n", "socksmethod: username none\n", "socksmethod: none username\n", "socksmethod: username\n"))
	if e := of("", "", "127.0.0.5", "127.0.0.5 127.0.0.1"); e != "" {
		for a := range strings.FieldsSeq(e) {
			external = append(external, netip.MustParseAddr(a))
			fmt.Fprintf(&b, "external: %s\n", a)
		}
		b.WriteString(of("", "", "external.rotation: same-same\n", "external.rotation: route\n"))
	}
	from := func() string {
		return of("0/0", "0/0", "127.0.0.0/24", "127.0.0.1/32", "127.9.0.0/16", "client.test", "many.test", "127.0.1.1/32") + of("", "", "", " port > 1023")
	}
	limits := []string{"", "", "", "session.max: 1000\n", "maxsessions: 1000\n", "session.pool: all\nmaxsessions: 1000\n"}
	for range rapid.IntRange(0, 2).Draw(t, "client-rules") {
		fmt.Fprintf(&b, "client %s {\nfrom: %s to: %s\n%s%s}\n", of("pass", "pass", "block"), from(), of("0/0", "0/0", "127.0.0.0/8", "127.0.0.2/32", "one.test"),
			of("", "", "socksmethod: none\n", "socksmethod: username\n"), of(limits...))
	}
	if rapid.IntRange(0, 9).Draw(t, "open") > 0 {
		b.WriteString("client pass { from: 0/0 to: 0/0 " + of("}\n", "session.max: 1000 }\n", "session.pool: all\nsession.max: 1000 }\n"))
	}
	to := func() string {
		return of("0/0", "0/0", "127.0.1.1/32", "127.0.1.0/24", "127.0.2.0/24", "127.0.0.0/8", "0.0.0.0/0", "::/0", "@special",
			"one.test", "two.test", "many.test", "lots.test", ".test", "none.test", "null.test") + port()
	}
	for range rapid.IntRange(1, 6).Draw(t, "socks-rules") {
		fmt.Fprintf(&b, "socks %s {\nfrom: %s to: %s\n%s%s%s%s}\n", of("pass", "pass", "pass", "block"), from(), to(),
			of("", "", "", "command: connect\n", "command: bind\n", "command: bindreply udpreply\n", "command: udpassociate udpreply\n", "command: bind udpassociate\n"),
			of("", "", "", "proxyprotocol: socks_v4\n", "proxyprotocol: socks_v5\n"),
			of("", "", "", "", "user: monica\n", "socksmethod: none\n"), of(limits...))
	}
	if rapid.Bool().Draw(t, "replies") { // else little comes to its second half
		b.WriteString("socks pass { from: 0/0 to: 0/0\ncommand: " + of("bind bindreply udpassociate udpreply", "bindreply udpreply", "bind udpassociate") + "\n}\n")
	}
	return b.String(), external
}

// drawRequest draws what a client does.
func (r *rig) drawRequest(t *rapid.T) request {
	of := func(choices ...string) string { return rapid.SampledFrom(choices).Draw(t, "word") }
	q := request{from: of("127.0.0.1", "127.0.0.1", "127.0.0.9", "127.9.0.1"), version: socks.V5, peer: of("127.0.1.1", "127.0.1.1", "127.0.1.2", "127.0.0.1", "127.9.0.1")}
	q.offer = rapid.SampledFrom([][]socks.Method{{socks.NoAuth}, {socks.Username}, {socks.NoAuth, socks.Username}}).Draw(t, "offer")
	q.command = rapid.SampledFrom([]socks.Command{socks.Connect, socks.Connect, socks.Bind, socks.UDPAssociate}).Draw(t, "command")
	q.target.Port = rapid.SampledFrom([]uint16{r.port, r.port, r.port, 9, 0}).Draw(t, "port")
	host := of("127.0.1.1", "127.0.1.2", "one.test", "ONE.test", "one.test.", "two.test", "many.test", "lots.test", "six.test", "zero.test", "null.test",
		"none.test", "a..b", "name:127.0.1.1", "0.0.0.0", "127.0.2.7", "::1", "self", "224.0.0.1")
	switch name, isName := strings.CutPrefix(host, "name:"); {
	case isName:
		q.target.Name = name
	case host == "self":
		q.target = socks.AddrOf(r.addr)
	default:
		if ip, err := netip.ParseAddr(host); err == nil {
			q.target.IP = ip
		} else {
			q.target.Name = host
		}
	}
	if q.command == socks.Bind && rapid.Bool().Draw(t, "anybody") {
		q.target = socks.Addr{IP: netip.IPv4Unspecified()}
	}
	if q.command == socks.Bind && q.target.IP.IsUnspecified() {
		q.target.Port = 0 // explain does not know whether a port is free
	}
	if q.command != socks.UDPAssociate && q.target.IP.Is4() && q.target.Name == "" && rapid.IntRange(0, 3).Draw(t, "version") == 0 {
		q.version = socks.V4
	}
	return q
}
