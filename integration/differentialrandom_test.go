package integration

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

var (
	differentialLists = flag.Int("differential.lists", enoughLists, "random lists of rules that danted and Usher are given")
	differentialSeed  = flag.Uint64("differential.seed", 0, "repeats the random lists of a run; 0 makes new ones")
)

// enoughLists is a number of lists that always has requests that are granted, and
// datagrams that are answered.
const enoughLists = 30

// questionsPerList is how many requests a random list gets.
const questionsPerList = 40

// TestDifferentialRandom gives danted and Usher random lists of rules, and compares
// their answers to random questions. It does not ask where they are known to differ.
func TestDifferentialRandom(t *testing.T) {
	seed := *differentialSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("repeat with -differential.seed=%d -differential.lists=%d", seed, *differentialLists)
	var lists []*ruleCase
	for i := range *differentialLists {
		r := &randomRules{Rand: rand.New(rand.NewPCG(seed, uint64(i)))}
		lists = append(lists, r.ruleCase(t, i))
	}
	questions, kinds := 0, map[string]int{}
	for i, got := range settle(t, lists, agreed) {
		questions += len(lists[i].steps)
		if trouble := compare(lists[i], got, kinds); trouble != "" {
			t.Errorf("list %d: %s; rules:\n%s", i, trouble, lists[i].config())
		}
	}
	t.Logf("%d lists, %d questions: %v", len(lists), questions, kinds)
	for _, kind := range []string{"connect: granted", "datagram: answer of"} {
		if len(lists) >= enoughLists && kinds[kind] == 0 {
			t.Errorf("nothing was answered with %q: such answers were not compared", kind)
		}
	}
}

// randomRules makes rules, and questions about them.
type randomRules struct {
	*rand.Rand
	methods  []string // the server's
	names    bool     // hosts are names: with .domain in rules, addresses differ
	sessions bool     // socks-rules have limits; what is granted stays open
	reload   bool     // there are other rules halfway
	twice    bool     // two datagrams through an association, the second one when the first one is settled
	open     bool     // a client-rule lets everybody in with all the server's methods
	v4       bool     // SOCKS 4, too: not with names, and not where client-rules have methods, as it differs there
}

// chance is true in n of 100 cases.
func (r *randomRules) chance(n int) bool { return r.IntN(100) < n }

func (r *randomRules) of(choices ...string) string { return choices[r.IntN(len(choices))] }

// some returns one or more of the choices, in their order.
func (r *randomRules) some(choices ...string) string {
	for {
		var list []string
		for _, c := range choices {
			if r.chance(50) {
				list = append(list, c)
			}
		}
		if len(list) > 0 {
			return strings.Join(list, " ")
		}
	}
}

func (r *randomRules) ruleCase(t testing.TB, number int) *ruleCase {
	t.Helper()
	r.methods = strings.Fields(r.of("username none", "username none", "none username", "none", "username"))
	r.names, r.sessions, r.reload = r.chance(30), r.chance(30), r.chance(30)
	r.twice = r.chance(25)
	r.v4 = !r.names && r.chance(70)
	tr := &ruleCase{title: fmt.Sprint(number), rules: r.list()}
	for _, text := range r.conversation() {
		q, err := parseQuestion(text)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		tr.steps = append(tr.steps, &caseStep{text: text, question: q})
	}
	return tr
}

// list returns a file of rules.
func (r *randomRules) list() string {
	list := "socksmethod: " + strings.Join(r.methods, " ") + "\n"
	for range r.IntN(3) {
		list += r.clientRule()
	}
	if r.open = r.chance(85); r.open {
		list += "client pass {\n\tfrom: 0/0 to: 0/0\n}\n"
	} else {
		list += r.clientRule()
	}
	for range 2 + r.IntN(7) {
		list += r.socksRule()
	}
	if r.chance(60) { // else few BIND and UDP sessions come to their second part
		list += "socks pass {\n\tfrom: 0/0 to: 0/0\n\tcommand: " +
			r.of("bind bindreply udpassociate udpreply", "bind udpassociate", "bindreply udpreply") + "\n}\n"
	}
	return list
}

func (r *randomRules) clientRule() string {
	rule := fmt.Sprintf("client %s {\n\tfrom: %s to: %s\n", r.of("pass", "pass", "block"), r.from(),
		r.of("0/0", "0/0", "127.0.0.1/32", "127.0.0.2/32", "0.0.0.0/0", "::/0", "127.0.0.0/8 port = 1080", "0/0 port < 1024"))
	if !r.v4 && r.chance(30) {
		rule += "\tsocksmethod: " + r.some(r.methods...) + "\n"
	}
	return rule + "}\n"
}

func (r *randomRules) socksRule() string {
	verdict := r.of("pass", "pass", "pass", "block")
	rule := fmt.Sprintf("socks %s {\n\tfrom: %s to: %s\n", verdict, r.from(), r.to())
	replies := false // nothing but replies
	switch {
	case r.chance(20):
		rule += "\tcommand: " + r.some("connect", "bind", "udpassociate") + " " + r.of("", "bindreply", "udpreply", "bindreply udpreply") + "\n"
	case r.chance(20):
		replies = true
		rule += "\tcommand: " + r.some("bindreply", "udpreply") + "\n"
	case r.chance(25):
		rule += "\tprotocol: " + r.some("tcp", "udp") + "\n"
	}
	version := "socks_v4 socks_v5"
	if r.chance(20) {
		version = r.some("socks_v4", "socks_v5")
		rule += "\tproxyprotocol: " + version + "\n"
	}
	// Usher refuses rules that block a name if no client can have one.
	byName := strings.Contains(strings.Join(r.methods, " "), "username") && (verdict == "pass" || r.open && version != "socks_v4")
	switch {
	case replies: // they have neither user nor method: both refuse to ask
	case byName && r.chance(25):
		rule += "\tuser: " + r.some("alice", "bob", "Alice", "carol") + "\n"
	case byName && r.chance(10):
		rule += "\tgroup: staff\n"
	case r.chance(20):
		rule += "\tsocksmethod: " + r.some(r.methods...) + "\n"
	}
	if r.sessions && verdict == "pass" && r.chance(70) {
		rule += fmt.Sprintf("\tsession.max: %d\n", 1+r.IntN(3))
	}
	return rule + "}\n"
}

func (r *randomRules) from() string {
	addr := r.of("0/0", "0/0", "0/0", "0.0.0.0/0", "::/0", "127.0.0.1/32", "127.1.0.0/16", "127.1.2.3/32",
		"127.0.0.0/8", "127.128.0.0/9", "::1/128", "lo", "client.test", "localhost", "127.0.1.1/32", "127.0.1.0/24", "one.test", "both.test")
	if r.chance(5) {
		addr += " port > 1023"
	}
	return addr
}

func (r *randomRules) to() string {
	hosts := []string{
		"0/0", "0/0", "0/0", "0.0.0.0/0", "::/0", "127.0.1.1/32", "127.0.1.0/24", "127.0.1.2/31", "127.0.0.0/22",
		"127.0.2.0/24", "::1/128", "::/64", "2001:db8::/32", "one.test", "two.test", "both.test", "six.test", "lo",
		"127.0.0.1/32", "127.0.0.0/24", "127.1.0.0/16",
	}
	if r.names {
		hosts = append(hosts, ".test", ".one.test", ".example", ".alias.test")
	}
	addr := r.of(hosts...)
	if r.chance(40) {
		addr += " port " + r.port()
	}
	return addr
}

func (r *randomRules) port() string {
	value := r.of("7", "21", "22", "80", "81", "1024", "8080", "ftp", "http", "http-alt")
	if r.chance(25) {
		return r.of("7-21", "1-79", "80 - 8080", "22-1024", "0-65535")
	}
	return r.of("=", "eq", "!=", "ne", "<", "lt", "<=", "le", ">", "gt", ">=", "ge") + " " + value
}
