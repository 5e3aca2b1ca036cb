package integration

import (
	"fmt"
	"slices"
	"strings"
)

// conversation returns questions to a random list. If another list is loaded halfway,
// the open sessions must survive it.
func (r *randomRules) conversation() []string {
	if !r.reload {
		return r.round(0, questionsPerList)
	}
	half := questionsPerList / 2
	all := append(r.round(0, half), "reload "+strings.ReplaceAll(strings.TrimSpace(r.list()), "\n", " | "))
	for i := range half {
		all = append(all, fmt.Sprintf("speak c%d", i))
	}
	return append(all, r.round(half, questionsPerList)...)
}

// round returns requests, and then questions about those that stay open: peers of BIND,
// and datagrams.
func (r *randomRules) round(begin, end int) []string {
	var requests, peers, datagrams, more []string
	for i := begin; i < end; i++ {
		kind := "connect"
		if !r.names { // a .domain would be compared with addresses
			kind = r.of("connect", "connect", "connect", "bind", "associate")
		}
		switch kind {
		case "connect":
			text := r.connect()
			if r.sessions || r.reload {
				text = fmt.Sprintf("c%d: %s", i, text)
			}
			requests = append(requests, text)
		case "bind":
			text, peer := r.bind(fmt.Sprintf("b%d", i))
			requests, peers = append(requests, text), append(peers, peer)
		case "associate":
			text, sent := r.associate(fmt.Sprintf("u%d", i), 20000+i)
			requests, datagrams, more = append(requests, text), append(datagrams, sent[0]), append(more, sent[1:]...)
		}
	}
	if r.sessions && len(peers) > 1 { // one that is refused frees a slot some time later
		peers = peers[:1]
	}
	return slices.Concat(requests, peers, datagrams, more)
}

// client returns a client of a question: the address of its source, and its words.
func (r *randomRules) client() (from string, words []string) {
	from = r.of("127.0.0.1", "127.0.0.1", "127.0.0.2", "127.1.0.1", "127.1.2.3", "127.200.0.1", "::1")
	words = []string{"from=" + from}
	if from != "::1" && r.chance(20) {
		words = append(words, "via=127.0.0.2")
	}
	return from, words
}

// login returns how a client logs in, or nothing.
func (r *randomRules) login() string {
	switch {
	case r.chance(30):
		return ""
	case r.chance(40):
		return "offer=" + strings.Join(r.methods, ",") + " user=alice"
	}
	return "offer=" + r.of("none,username", "username,none", "username") +
		" user=" + r.of("alice", "bob", "Alice", "alice:wrong")
}

func (r *randomRules) connect() string {
	from, words := r.client()
	if r.v4 && from != "::1" && r.chance(20) {
		target := r.of("127.0.1.1", "127.0.1.2", "127.0.2.1") + ":" + r.of("7", "21", "80", "8080")
		return strings.Join(append(words, "v4", "connect", target), " ")
	}
	hosts := []string{"one.test", "two.test", "both.test", "six.test", "sub.one.test", "one.alias.test", "other.example"}
	if !r.names {
		hosts = append(hosts, "127.0.1.1", "127.0.1.2", "127.0.2.1", "[::1]", "[::ffff:127.0.1.1]")
	}
	ports := []string{"7", "21", "80", "8080"}
	if !r.sessions { // what is not granted frees its slot some time later
		hosts = append(hosts, "none.test", "nobody.test")
		if !r.names {
			hosts = append(hosts, "127.0.0.1", "192.0.2.1", "[2001:db8::1]")
		}
		ports = append(ports, "22", "81", "1024")
	}
	return strings.Join(append(words, r.login(), "connect", r.of(hosts...)+":"+r.of(ports...)), " ")
}

// bind returns a request for a BIND, and the peer that comes.
func (r *randomRules) bind(label string) (text, peer string) {
	from, words := r.client()
	announced := r.of("0.0.0.0:0", "0.0.0.0:0", "127.0.1.1:80", "127.0.1.2:21", "127.1.0.1:7", "one.test:80", "both.test:80",
		"[::1]:80", "six.test:80", "none.test:80")
	if r.v4 && from != "::1" && strings.HasPrefix(announced, "127") && r.chance(20) {
		words = append(words, "v4")
	} else {
		words = append(words, r.login())
	}
	source := r.of("127.0.1.1", "127.0.1.1", "127.0.1.2", "127.0.2.1", "127.1.0.1")
	if announced == "[::1]:80" || announced == "six.test:80" {
		source = "::1"
	}
	return fmt.Sprintf("%s: %s bind %s", label, strings.Join(words, " "), announced), fmt.Sprintf("from=%s peer %s", source, label)
}

// associate returns a request for an association, and datagrams for it. A client that
// announces its own port sends from this port.
func (r *randomRules) associate(label string, port int) (text string, datagrams []string) {
	from, words := r.client()
	announced := "0.0.0.0:0"
	if from == "::1" { // danted uses the announced family
		announced = "[::]:0"
	}
	if r.chance(25) {
		announced = fmt.Sprintf("%s:%d", from, port)
		if from == "::1" {
			announced = fmt.Sprintf("[::1]:%d", port)
		}
		from = announced
	}
	text = fmt.Sprintf("%s: %s %s associate %s", label, strings.Join(words, " "), r.login(), announced)
	hosts := []string{"127.0.1.1", "127.0.1.1", "127.0.1.2", "127.0.2.1", "[::1]", "one.test", "two.test", "six.test", "none.test"}
	count := 1
	switch {
	case r.chance(10): // before or after it danted takes targets for others
		hosts = []string{"both.test"}
	case r.twice:
		count = 2
	}
	for range count {
		target := r.of(hosts...) + ":" + r.of("7", "21", "80", "80", "8080")
		datagrams = append(datagrams, fmt.Sprintf("from=%s datagram %s %s", from, label, target))
	}
	return text, datagrams
}

// compare returns the first answer in which danted and Usher differ without a
// reason, and counts what danted answered.
func compare(tr *ruleCase, got answers, kinds map[string]int) (trouble string) {
	for i, s := range tr.steps {
		kinds[kindOf(s, got.danted[i])]++
		switch {
		case !agreed(tr, i, got):
			return tr.history(i, got)
		case got.danted[i] != got.usher[i]:
			kinds["(replies)"]++
		}
	}
	return ""
}

// agreed reports whether danted and Usher gave the same answer to a step, or differ for
// a known reason.
func agreed(tr *ruleCase, step int, got answers) bool {
	return got.danted[step] != noServer && (got.danted[step] == got.usher[step] || tr.differsByReplies(step, got) ||
		tr.differsByLookup(step, got) || tr.differsByName(step, got))
}

// differsByName reports whether danted tells the client that a name has addresses
// that are refused, and Usher does not.
func (tr *ruleCase) differsByName(i int, got answers) bool {
	before, refused := strings.CutSuffix(got.danted[i], "reply 2")
	host, _, _ := strings.Cut(tr.steps[i].question.target, ":")
	return refused && got.usher[i] == before+"reply 4" && (strings.HasSuffix(host, ".test") || strings.HasSuffix(host, ".example"))
}

// differsByLookup reports whether danted looked up a name that has no address, and
// Usher refused it by the rules alone, as none could pass it.
func (tr *ruleCase) differsByLookup(i int, got answers) bool {
	before, unresolved := strings.CutSuffix(got.danted[i], "reply 4")
	return unresolved && got.usher[i] == before+"reply 2" && strings.HasPrefix(tr.steps[i].question.target, "no")
}

// history returns a question with its answers, and the earlier ones about the same
// connection.
func (tr *ruleCase) history(i int, got answers) string {
	var lines []string
	of := tr.steps[i].question.on
	for j, s := range tr.steps[:i+1] {
		if j == i || of != "" && (s.question.label == of || s.question.on == of) {
			lines = append(lines, fmt.Sprintf("%s: danted: %s, usher: %s", s.text, got.danted[j], got.usher[j]))
		}
	}
	return strings.Join(lines, "\n")
}

// differsByReplies reports whether danted let an answer pass and Usher did not, because
// danted asks the rules only until one answer of an association has passed.
func (tr *ruleCase) differsByReplies(i int, got answers) bool {
	if !strings.HasPrefix(got.danted[i], "answer of ") || got.usher[i] != "no answer" {
		return false
	}
	for j, s := range tr.steps {
		if s.question.on == tr.steps[i].question.on && strings.HasPrefix(got.usher[j], "answer of ") && got.danted[j] == got.usher[j] {
			return true
		}
	}
	return false
}

// kindOf is an answer without its addresses.
func kindOf(s *caseStep, answer string) string {
	for _, method := range []string{"none, ", "username, "} {
		answer = strings.TrimPrefix(answer, method)
	}
	for _, address := range []string{" 127", " [", " ::1"} {
		answer, _, _ = strings.Cut(answer, address)
	}
	return s.question.verb + ": " + answer
}
