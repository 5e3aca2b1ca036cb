package explain

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"usher/proxy/decide"
	"usher/proxy/rules"
	"usher/proxy/socks"
)

// request is what a client does.
type request struct {
	from    string
	version socks.Version
	offer   []socks.Method
	command socks.Command
	target  socks.Addr
	peer    string // of BIND
}

// compare lets a client make the request at the server, and explain say what
// becomes of it.
func (r *rig) compare(t failer, q request) {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(q.from)}}
	conn, err := d.Dial("tcp", r.addr.String())
	if err != nil {
		t.Fatalf("%v", err)
	}
	defer conn.Close()
	must(t, conn.SetDeadline(time.Now().Add(patience)))
	from := conn.LocalAddr().(*net.TCPAddr).AddrPort()
	want := r.question(t, q, from)
	command := map[socks.Command]rules.Command{socks.Connect: rules.Connect, socks.Bind: rules.Bind, socks.UDPAssociate: rules.UDPAssociate}[q.command]
	want.Command = command
	if command == rules.UDPAssociate { // the target is its datagram's
		r.association(t, q, want, conn)
		return
	}
	a := r.explain(t, want)
	reply, ok := q.ask(t, conn, q.target)
	switch {
	case !ok || reply.Code != socks.Succeeded:
		r.refused(t, q, a, reply.Code)
	case !a.Pass:
		t.Fatalf("%+v: served, explain says %+v\n%s", q, a, r.policy.Rules.Numbered())
	case command == rules.Bind:
		r.bindPeer(t, q, a, conn, from, reply)
	default:
		conn.Close()
		r.same(t, q, a, r.line(t), "done", decides(a.SocksRules))
	}
}

// question returns what explain is to be asked: the user is the one that the
// client logs in as if the server chooses username.
func (r *rig) question(t failer, q request, from netip.AddrPort) Question {
	want := Question{From: from, Version: rules.Version(q.version), To: decide.Target(q.target)}
	if q.version == socks.V4 {
		return want
	}
	for _, m := range r.explain(t, want).Methods {
		switch {
		case m == "none" && slices.Contains(q.offer, socks.NoAuth):
			return want
		case m == "username" && slices.Contains(q.offer, socks.Username):
			want.User = "monica"
			return want
		}
	}
	if !slices.Contains(q.offer, socks.NoAuth) {
		want.User = "monica"
	}
	return want
}

// ask negotiates and sends the request. It returns the reply, if there was one.
func (q request) ask(t failer, conn net.Conn, target socks.Addr) (reply socks.Reply, ok bool) {
	t.Helper()
	if q.version == socks.V5 {
		must(t, socks.WriteGreeting(conn, q.offer...))
		m, err := socks.ReadMethod(conn)
		if err != nil || m == socks.NoAcceptable {
			return reply, false
		}
		if m == socks.Username {
			must(t, socks.WriteCredentials(conn, socks.Credentials{User: "monica", Password: "sesame"}))
			if ok, err := socks.ReadAuth(conn); err != nil || !ok {
				t.Fatalf("password: %v, %v", ok, err)
			}
		}
	}
	if err := socks.WriteRequest(conn, socks.Request{Version: q.version, Command: q.command, Addr: target}); err != nil {
		return reply, false // closed already
	}
	reply, err := socks.ReadReply(conn, q.version)
	return reply, err == nil
}

// refused compares a request that the server refused, or whose target it did
// not reach.
func (r *rig) refused(t failer, q request, a *Answer, code socks.Code) {
	t.Helper()
	line := r.line(t)
	if a.Pass { // then nobody may listen there
		for _, addr := range a.Addresses {
			if q.target.Port == r.port && slices.Contains(targets, addr) {
				t.Fatalf("%+v: refused (%v), explain says %+v\n%s", q, line, a, r.policy.Rules.Numbered())
			}
		}
		if reason := line["reason"]; !slices.Contains([]any{"refused", "net_unreachable", "host_unreachable", "no_family"}, reason) {
			t.Fatalf("%+v: refused for %v, explain says %+v\n%s", q, reason, a, r.policy.Rules.Numbered())
		}
		r.same(t, q, a, line, line["reason"].(string), decides(a.SocksRules))
		return
	}
	rule := decides(a.SocksRules)
	if rule == "" {
		rule = decides(a.RequestRules)
	}
	r.same(t, q, a, line, reasonOf(a), rule)
	if said := regexp.MustCompile(`reply (\d)`).FindStringSubmatch(a.Reason); said != nil && q.version == socks.V5 && said[1] != fmt.Sprint(int(code)) {
		t.Fatalf("%+v: reply %d, explain says %+v", q, code, a)
	}
}

// bindPeer lets a peer connect to what BIND was given.
func (r *rig) bindPeer(t failer, q request, a *Answer, conn net.Conn, client netip.AddrPort, reply socks.Reply) {
	t.Helper()
	if at := netip.MustParseAddrPort(a.Bound); at.Addr() != reply.Addr.IP {
		t.Fatalf("%+v: bound to %v, explain says %v", q, reply.Addr, at)
	}
	request := decides(a.SocksRules)
	if !reply.Addr.IP.Is4() || !reply.Addr.IP.IsLoopback() { // out of reach for our peers
		conn.Close()
		r.same(t, q, a, r.line(t), "client_gone", request)
		return
	}
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(q.peer)}, Timeout: patience}
	peer, err := d.Dial("tcp", reply.Addr.String())
	if err != nil {
		t.Fatalf("%v", err)
	}
	defer peer.Close()
	second, err := socks.ReadReply(conn, q.version)
	if err != nil {
		t.Fatalf("second reply: %v", err)
	}
	conn.Close()
	peer.Close()
	line := r.line(t)
	at := peer.LocalAddr().(*net.TCPAddr).AddrPort()
	announced := decide.Target(q.target)
	expected := []string{announced.Addr.String()}
	if i := slices.IndexFunc(a.Names, func(n Name) bool { return n.Name == announced.Name }); i >= 0 {
		expected = a.Names[i].Addresses
	}
	if !announced.Addr.IsUnspecified() && !slices.Contains(expected, at.Addr().String()) {
		r.same(t, q, a, line, "peer", request)
		return
	}
	b := r.explain(t, Question{From: at, To: rules.Target{Addr: client.Addr(), Port: client.Port()}, Command: rules.BindReply, Version: rules.Version(q.version)})
	if b.Pass != (second.Code == socks.Succeeded) {
		t.Fatalf("%+v: second reply %d, explain says %+v\n%s", q, second.Code, b, r.policy.Rules.Numbered())
	}
	b.ClientRules = a.ClientRules
	switch {
	case !b.Pass:
		r.same(t, q, b, line, "blocked", decides(b.SocksRules))
	case len(b.Limits) > 0: // that rule takes the session over
		r.same(t, q, b, line, "done", decides(b.SocksRules))
	default:
		r.same(t, q, b, line, "done", request)
	}
}

// association compares a request for an association, a datagram to the target
// and the answer to it. The datagram leaves from the port that the connection
// has, as explain takes it.
func (r *rig) association(t failer, q request, want Question, conn net.Conn) {
	t.Helper()
	a := r.explain(t, want)
	reply, ok := q.ask(t, conn, socks.Addr{IP: netip.IPv4Unspecified()})
	if !ok || reply.Code != socks.Succeeded {
		if a.RequestRules != nil && !strings.HasSuffix(a.Reason, "reply 2 to the request for the association") {
			t.Fatalf("%+v: refused, explain says %+v\n%s", q, a, r.policy.Rules.Numbered())
		}
		r.refused(t, q, a, reply.Code)
		return
	}
	if a.RequestRules == nil || strings.HasSuffix(a.Reason, "the association") {
		t.Fatalf("%+v: associated, explain says %+v\n%s", q, a, r.policy.Rules.Numbered())
	}
	pc, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(want.From))
	if err != nil {
		t.Fatalf("%v", err)
	}
	defer pc.Close()
	b, err := socks.AppendUDPHeader(nil, q.target)
	must(t, err)
	_, err = pc.WriteToUDPAddrPort(append(b, "hello"...), netip.AddrPortFrom(reply.Addr.IP, reply.Addr.Port))
	must(t, err)
	got := r.datagram(t, false)
	listens := false
	switch {
	case !a.Pass:
		if got != reasonOf(a) {
			t.Fatalf("%+v: datagram %s, explain says %+v\n%s", q, got, a, r.policy.Rules.Numbered())
		}
	case got != "up" && got != "system": // there may be no route
		t.Fatalf("%+v: datagram %s, explain says %+v\n%s", q, got, a, r.policy.Rules.Numbered())
	default:
		listens = got == "up" && q.target.Port == r.port && slices.Contains(targets, a.Addresses[0])
	}
	if listens {
		reply := r.explain(t, Question{From: netip.AddrPortFrom(netip.MustParseAddr(a.Addresses[0]), r.port),
			To: rules.Target{Addr: want.From.Addr(), Port: want.From.Port()}, Command: rules.UDPReply, Version: rules.SOCKS5})
		if got, want := r.datagram(t, true), map[bool]string{true: "down", false: "reply_blocked"}[reply.Pass]; got != want {
			t.Fatalf("%+v: answer %s, explain says %+v\n%s", q, got, reply, r.policy.Rules.Numbered())
		}
	}
	conn.Close()
	r.same(t, q, a, r.line(t), "done", decides(a.RequestRules))
}

// same compares what the log says of a session's end with an answer.
func (r *rig) same(t failer, q request, a *Answer, line map[string]any, reason, rule string) {
	t.Helper()
	got := fmt.Sprintf("%v, client-rule %v, rule %v", line["reason"], cmp.Or(line["client_rule"], any("")), cmp.Or(line["rule"], any("")))
	if want := fmt.Sprintf("%s, client-rule %s, rule %s", reason, decides(a.ClientRules), rule); got != want {
		t.Fatalf("%+v: serve: %s; explain: %s: %+v\n%s", q, got, want, a, r.policy.Rules.Numbered())
	}
	if dialled := line["dialled"]; dialled != nil { // the first that answers
		first := slices.IndexFunc(a.Addresses, func(addr string) bool { return slices.Contains(targets, addr) })
		if first < 0 || dialled != netip.AddrPortFrom(netip.MustParseAddr(a.Addresses[first]), r.port).String() {
			t.Fatalf("%+v: dialled %v, explain says %v", q, dialled, a.Addresses)
		}
	}
}

// decides returns the rule that decided, "" if none did.
func decides(steps []Step) string {
	for _, s := range steps {
		if s.Decides {
			return s.Rule
		}
	}
	return ""
}

// reasonOf returns the word of the log for why an answer refuses.
func reasonOf(a *Answer) string {
	if _, reason, found := strings.Cut(a.Reason, ", reason "); found {
		return reason
	}
	if strings.HasPrefix(a.Reason, "no common method") {
		return "method"
	}
	return "blocked"
}

// TestExplainBoundsNames holds explain to the bound on the addresses of a name
// that serve has: the 65th counts only if the rules have the name.
func TestExplainBoundsNames(t *testing.T) {
	r := newRig(t)
	many := request{from: "127.0.0.1", version: socks.V5, offer: []socks.Method{socks.NoAuth}, command: socks.Connect}
	const in = "socksmethod: none\nclient pass { from: 0/0 to: 0/0 }\n"
	for _, c := range []struct{ rules, name string }{
		{"socks block { from: 0/0 to: 127.0.1.1/32 }\nsocks pass { from: 0/0 to: 0/0 }\n", "many.test"},
		{"socks block { from: 0/0 to: 127.0.1.2/32 }\nsocks pass { from: 0/0 to: many.test }\nsocks pass { from: 0/0 to: 127.0.1.1/32 }\n", "many.test"},
		{"socks block { from: 0/0 to: one.test }\nsocks pass { from: 0/0 to: lots.test }\n", "lots.test"},
		{"socks pass { from: 0/0 to: 0/0 }\n", "a..b"},
	} {
		if !r.load(in+c.rules, nil) {
			t.Fatal(c.rules)
		}
		r.server.SetPolicy(r.policy)
		many.target = socks.Addr{Name: c.name, Port: r.port}
		r.compare(t, many)
	}
}

// TestExplainAnswersAsServe gives random rules to a running server and to
// explain, and compares what they say to random requests.
func TestExplainAnswersAsServe(t *testing.T) {
	r := newRig(t)
	seen := map[string]int{}
	rapid.Check(t, func(t *rapid.T) {
		r.settle(t)
		text, external := r.drawRules(t)
		if !r.load(text, external) {
			t.Skip("the parser refuses them")
		}
		r.server.SetPolicy(r.policy)
		for range 6 {
			q := r.drawRequest(t)
			before := r.logged
			r.compare(t, q)
			if r.logged != before+1 {
				t.Fatalf("%d log lines for %+v", r.logged-before, q)
			}
			seen[fmt.Sprint(q.command, r.log.at(before)["reason"])]++
		}
	})
	t.Logf("%v; datagrams: %v", seen, r.counted)
}
