package explain

import (
	"cmp"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"usher/proxy/rules"
)

// compare holds an answer to what a running server says.
func (s *bookSession) compare(place, got, want string, a *Answer) {
	s.t.Helper()
	*s.compared++
	switch {
	case got == want:
	case a.Pass && len(a.Limits) > 0 && slices.Contains([]string{"closed", "reply 2", "reply 91"}, want): // explain does not know how full limits are
		*s.full++
	default:
		s.t.Errorf("%s: explain says %q, want %q: %+v\n%s", place, got, want, a, s.rules)
	}
}

// login returns as whom the client logs in, as the server chooses among methods.
// ok is false if no question says what the client does: its password is wrong,
// or it offers methods that Usher does not know.
func (q bookQuestion) login(methods []string) (user string, ok bool) {
	for _, m := range methods {
		switch {
		case m == "none" && slices.Contains(q.offer, rules.None):
			return "", true
		case m == "username" && slices.Contains(q.offer, rules.Username):
			known := slices.Contains([]string{"alice", "bob", "Alice"}, q.user)
			return q.user, known && q.password == "pw-"+q.user
		}
	}
	if slices.Contains(q.offer, rules.Username) {
		return q.user, true
	}
	return "", len(q.offer) > 0
}

// request compares greet, connect, bind and associate.
func (s *bookSession) request() {
	q := s.question
	command, target := q.verb, cmp.Or(q.target, "127.0.1.1:80")
	switch q.verb {
	case "greet":
		command = "connect"
	case "associate":
		if q.version == rules.SOCKS4 {
			return // no such question can be asked
		}
		command, target = "udpassociate", "127.0.1.1:80" // TO is a datagram's
	}
	if q.version == rules.SOCKS4 {
		q.user = ""
	} else {
		var ok bool
		if q.user, ok = q.login(s.explain(q.from, q.via, q.version, "", target, command).Methods); !ok {
			return
		}
		if q.choice {
			q.want = strings.TrimPrefix(q.want, map[bool]string{true: "none, ", false: "username, "}[q.user == ""])
		}
	}
	s.question.user = q.user
	if at, known := q.announced(); known { // the source of the datagrams is judged first
		a := s.explain(at, q.via, q.version, q.user, target, command)
		if got := s.words(q, a); !strings.HasPrefix(got, "associated") {
			s.compare(q.place, got, q.want, a)
			return
		}
	}
	a := s.explain(q.from, q.via, q.version, q.user, target, command)
	s.compare(q.place, s.words(q, a), q.want, a)
}

// announced returns from where a client says that its datagrams come.
func (q bookQuestion) announced() (at netip.AddrPort, known bool) {
	at, err := netip.ParseAddrPort(q.target)
	known = q.verb == "associate" && err == nil && at.Port() != 0 && (at.Addr().IsUnspecified() || at.Addr() == q.from.Addr())
	return netip.AddrPortFrom(q.from.Addr(), at.Port()), known
}

// words are what a client of serve sees if the answer is true.
func (s *bookSession) words(q bookQuestion, a *Answer) string {
	refusal := "pass"
	switch {
	case a.Pass:
	case strings.Contains(a.Reason, "closed without a byte"):
		if q.want == "hung up" { // a client of SOCKS 4 expects a reply
			return q.want
		}
		return "closed"
	case strings.HasPrefix(a.Reason, "no common method"):
		refusal = "no method"
	case regexp.MustCompile(`reply \d`).MatchString(a.Reason):
		refusal = regexp.MustCompile(`reply \d`).FindString(a.Reason)
	default:
		refusal = "it is dropped"
	}
	if q.verb == "greet" && refusal != "no method" {
		return "greeted"
	}
	if q.verb == "associate" && (a.SocksRules != nil || refusal == "it is dropped") {
		return "associated " + q.via.Addr().String()
	}
	switch {
	case refusal != "pass" && q.version == rules.SOCKS4:
		return "reply 91"
	case refusal != "pass":
		return refusal
	case q.verb == "bind":
		return "bound " + addressOf(a.Bound, 0).Addr().String()
	}
	_, port, _ := net.SplitHostPort(q.target)
	for _, to := range a.Addresses {
		if at := to + ":" + port; listens(to, port) {
			by := ""
			if _, given, found := strings.Cut(q.want, " by "); found { // another address to connect from
				by = " by " + given
			}
			return "granted " + netip.MustParseAddrPort(strings.Replace(at, to, bracketed(to), 1)).String() + by
		}
	}
	if slices.Contains([]string{"reply 3", "reply 5", "reply 91"}, q.want) { // nobody listens there, or there is no route
		return q.want
	}
	return "reply 5"
}

func bracketed(addr string) string {
	if strings.Contains(addr, ":") {
		return "[" + addr + "]"
	}
	return addr
}

// listens reports whether a target of the case book does.
func listens(addr, port string) bool {
	n, err := strconv.ParseUint(port, 10, 16)
	return err == nil && slices.Contains(bookTargets, addr) && slices.Contains(bookPorts, uint16(n))
}

// peer compares the second reply of BIND.
func (s *bookSession) peer(q bookQuestion) {
	begun := s.question
	host, _, _ := net.SplitHostPort(begun.target)
	expected := append(slices.Clone(bookHosts[host]), host)
	want, code := q.want, map[rules.Version]string{rules.SOCKS4: "reply 91", rules.SOCKS5: "reply 2"}[begun.version]
	anybody := host == "0.0.0.0" || host == "::"
	client := netip.AddrPortFrom(begun.from.Addr(), cmp.Or(begun.from.Port(), Ephemeral))
	a := s.explain(q.from, netip.AddrPort{}, begun.version, "", client.String(), "bindreply")
	switch {
	case !anybody && !slices.Contains(expected, q.from.Addr().String()): // it is not asked for
		s.compare(q.place, code, want, a)
	case a.Pass:
		s.compare(q.place, "granted", want, a)
	default:
		s.compare(q.place, code, want, a)
	}
}

// datagram compares what becomes of a datagram and of its answer.
func (s *bookSession) datagram(q bookQuestion) {
	begun := s.question
	if q.from.Addr() != begun.from.Addr() {
		return // a stranger's
	}
	if at, known := begun.announced(); known && at != q.from {
		return // not from where it said
	}
	a := s.explain(q.from, begun.via, rules.SOCKS5, begun.user, q.target, "udpassociate")
	_, port, _ := net.SplitHostPort(q.target)
	if !a.Pass || !listens(a.Addresses[0], port) {
		s.compare(q.place, "dropped", q.want, a)
		return
	}
	to := bracketed(a.Addresses[0]) + ":" + port
	client := netip.AddrPortFrom(q.from.Addr(), cmp.Or(q.from.Port(), Ephemeral)).String()
	reply := s.explain(netip.MustParseAddrPort(to), netip.AddrPort{}, rules.SOCKS5, "", client, "udpreply")
	got := "no answer"
	if reply.Pass {
		got = "answer of " + to
	}
	s.compare(q.place, got, q.want, reply)
}
