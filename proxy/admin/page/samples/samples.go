// Package samples has clusters in typical states, for tests of what shows them and for
// the pictures in the documentation. They are made up and never change.
package samples

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"usher/proxy/admin/api"
	"usher/proxy/record"
)

// Now is the time in all samples.
var Now = time.Date(2026, time.March, 12, 3, 4, 5, 0, time.UTC)

// State is a cluster that stands still. It is an api.Source.
type State struct {
	cluster  api.Cluster
	rules    []api.Generation
	limits   []api.Limit
	sessions []record.Running
	refusals []record.End
}

// Names returns the names of the states, in the order of the documentation.
func Names() []string {
	return []string{"busy", "empty", "reload", "store-down", "replica-dead", "drained", "thousand"}
}

// Of returns the state of that name.
func Of(name string) *State {
	s := named(name)
	s.cluster.Judge() // as the API does
	return s
}

func named(name string) *State {
	switch name {
	case "busy":
		return busy()
	case "empty":
		return empty()
	case "reload":
		return reload()
	case "store-down":
		return storeDown()
	case "replica-dead":
		return replicaDead()
	case "drained":
		return drained()
	case "thousand":
		return Thousand(1000, 10_000)
	}
	panic("there is no sample " + name)
}

// Cluster implements api.Source.
func (s *State) Cluster(context.Context) api.Cluster { return s.cluster }

// Rules implements api.Source.
func (s *State) Rules(context.Context) api.Rules {
	return api.Rules{Answer: s.cluster.Answer, Generations: s.rules}
}

// Limits implements api.Source.
func (s *State) Limits(context.Context) api.Limits {
	return api.Limits{Answer: s.cluster.Answer, Limits: s.limits}
}

// Sessions implements api.Source.
func (s *State) Sessions(_ context.Context, q api.Query) api.Sessions {
	page, total := q.PickSessions(slices.Clone(s.sessions))
	return api.Sessions{Answer: s.cluster.Answer, Total: total, Offset: q.Offset, Sessions: page}
}

// Refusals implements api.Source.
func (s *State) Refusals(_ context.Context, q api.Query) api.Refusals {
	page, total := q.PickRefusals(slices.Clone(s.refusals))
	return api.Refusals{Answer: s.cluster.Answer, Total: total, Offset: q.Offset, Refusals: page}
}

// The generations of the samples.
const (
	older   = "g41-7be0c512"
	current = "g42-9f31c2ab"
)

// replicas returns so many that live.
func replicas(n int) (list []api.Replica) {
	for i := range n {
		list = append(list, api.Replica{
			ID: fmt.Sprintf("%08x", 0x5ad3c0+i), Name: fmt.Sprintf("usher-%d", i+1), Address: fmt.Sprintf("10.20.0.%d:9090", 11+i),
			Version: "v1.4.0", State: api.Alive, Ready: true, Started: Now.Add(-time.Duration(76+i) * time.Hour), Seen: Now.Add(-time.Second),
			Generation: current, Digest: "9f31c2ab", Sessions: 0,
		})
	}
	return list
}

// cluster returns a healthy one.
func cluster(n int) api.Cluster {
	return api.Cluster{
		Answer: api.Answer{Time: Now, Replica: "usher-1", Missing: []api.Missing{}}, Cluster: "edge",
		Store: api.Store{Address: "redis.internal:6379", Joined: true, LeaseSeconds: 10}, Replicas: replicas(n), Writing: true,
	}
}

// use is a limit with its shares, in the order of the replicas.
func use(rule, name string, line int, most int64, shares ...int) api.Limit {
	l := api.Limit{
		Rule: rule, Name: name, Location: fmt.Sprintf("/etc/usher/sockd.conf:%d", line), Generation: current, Current: true,
		Mode: "enforce", Max: most, Shares: []api.Share{}, Keys: []api.Key{}, Holders: []record.Holder{},
	}
	for i, n := range shares {
		l.Shares = append(l.Shares, api.Share{Replica: fmt.Sprintf("usher-%d", i+1), Sessions: n})
		l.Sessions += int64(n)
	}
	l.Highest, l.HighestAt = l.Sessions, Now.Add(-19*time.Minute)
	return l
}

var clients = []struct {
	address, user, target, rule, name string
	line                              int
}{
	{"192.0.2.17", "monica", "build.example.com:443", "s1", "web", 12},
	{"192.0.2.41", "rafael", "registry.example.com:443", "s1", "web", 12},
	{"198.51.100.6", "", "10.30.4.8:5432", "s2", "databases", 19},
	{"192.0.2.17", "monica", "api.example.net:443", "s3", "partners", 27},
	{"2001:db8:7::21", "crawler", "www.example.org:80", "s4", "crawl", 33},
	{"198.51.100.90", "li", "mail.example.com:993", "s5", "mail", 40},
}

// session returns the n-th of the made-up sessions.
func session(n, replicas int) record.Running {
	c := clients[n%len(clients)]
	age := time.Duration(3+n*n%7919) * time.Second
	r := record.Running{
		Session: record.Session{
			ID: fmt.Sprintf("5ad3c0-%x", 0x2f1000+n*37), Replica: fmt.Sprintf("usher-%d", n%replicas+1), Generation: current,
			Client: netip.AddrPortFrom(netip.MustParseAddr(c.address), uint16(40_000+n*13%20_000)), User: c.user,
			ClientRule: "c1", ClientRuleAt: "/etc/usher/sockd.conf:8",
			Rule: c.rule, RuleName: c.name, RuleAt: fmt.Sprintf("/etc/usher/sockd.conf:%d", c.line),
			SOCKS: 5, Command: "connect", Target: c.target, Began: Now.Add(-age), Seconds: age.Seconds(),
			BytesUp: int64(n*n*331%900_000 + 517), BytesDown: int64(n*n*92_821%380_000_000 + 4096),
		},
		State: record.Relaying, IdleSeconds: float64(n * 7 % 60),
	}
	return r
}

func sessions(n, replicas int) (list []record.Running) {
	for i := range n {
		list = append(list, session(i, replicas))
	}
	return list
}

// refused returns a refusal of the n-th client so long ago.
func refused(n int, ago time.Duration, reason, trouble string, held *record.Held) record.End {
	e := record.End{Session: session(n, 3).Session, Time: Now.Add(-ago), Reason: reason, Refused: true, Error: trouble, Held: held}
	e.ID = fmt.Sprintf("5ad3c0-%x", 0x11f0+n*91+int(ago.Seconds()))
	e.Generation = current
	return e
}

// rulesOf returns the rules of the limits and sessions of a generation.
func (s *State) rulesOf(label string) api.Generation {
	g := api.Generation{Label: label, Current: label == current, Replicas: []string{}}
	limited := map[string]bool{}
	for i := range s.limits {
		if l := &s.limits[i]; l.Generation == label {
			limited[l.Rule] = true
			g.Rules = append(g.Rules, ruleOf(l))
		}
	}
	for _, c := range clients {
		if !limited[c.rule] {
			limited[c.rule] = true
			g.Rules = append(g.Rules, ruleOf(&api.Limit{Rule: c.rule, Name: c.name, Max: -1}))
		}
	}
	return g
}

func ruleOf(l *api.Limit) api.Rule {
	text := "socks pass {\n    from: 192.0.2.0/24 to: ." + l.Name + ".example.com\n    command: connect\n    rule.name: " + l.Name + "\n"
	if l.Max >= 0 {
		text += fmt.Sprintf("    session.max: %d\n", l.Max)
	}
	if l.KeyMax > 0 {
		text += fmt.Sprintf("    session.state.key: username\n    session.state.max: %d\n", l.KeyMax)
	}
	if l.Mode == "report" {
		text += "    session.mode: report\n"
	}
	return api.Rule{Rule: l.Rule, Name: l.Name, Location: l.Location, Verdict: "pass", Text: text + "}\n", Limited: l.Max >= 0}
}

// settle makes the parts of a state agree.
func (s *State) settle() *State {
	s.rules = []api.Generation{s.rulesOf(current), s.rulesOf(older)}
	on := map[string]int{}
	for i := range s.sessions {
		on[s.sessions[i].Replica]++
	}
	for i := range s.cluster.Replicas {
		r := &s.cluster.Replicas[i]
		if r.State == api.Alive || r.State == api.Draining {
			r.Sessions = on[r.Name]
		}
	}
	return s
}

func empty() *State {
	s := &State{cluster: cluster(1)}
	s.cluster.Cluster, s.cluster.Writing = "", false
	s.cluster.Store.Address = "memory"
	return s
}

func busy() *State {
	s := &State{cluster: cluster(3), sessions: sessions(38, 3)}
	web := use("s1", "web", 12, 10, 4, 3, 3)
	web.Refused = 14
	web.Holders = []record.Holder{
		{Client: netip.MustParseAddr("192.0.2.17"), User: "monica", Sessions: 6}, {Client: netip.MustParseAddr("192.0.2.41"), User: "rafael", Sessions: 4},
	}
	databases := use("s2", "databases", 19, 40, 5, 2, 3)
	partners := use("s3", "partners", 27, 25, 6, 9, 4)
	partners.Pool = "partners"
	second := partners
	second.Rule, second.Name, second.Location = "s6", "partners-udp", "/etc/usher/sockd.conf:46"
	crawl := use("s4", "crawl", 33, -1, 3, 2, 1)
	crawl.KeyMax = 4
	crawl.Keys = []api.Key{
		{Key: "user=crawler", Sessions: 4, Max: 4}, {Key: "user=archive", Sessions: 2, Max: 4},
	}
	mail := use("s5", "mail", 40, 6, 3, 2, 2)
	mail.Mode, mail.WouldRefuse = "report", 31
	s.limits = []api.Limit{web, databases, partners, second, crawl, mail}
	held := &record.Held{Limit: "session.max", Max: 10, Sessions: 10, Here: 4, Holders: []record.Holder{
		{Client: netip.MustParseAddr("192.0.2.17"), User: "monica", Sessions: 3}, {Client: netip.MustParseAddr("192.0.2.41"), User: "rafael", Sessions: 1}}}
	s.refusals = []record.End{
		refused(1, 4*time.Second, "limit", "session.max: 10", held),
		refused(0, 11*time.Second, "limit", "session.max: 10", held),
		refused(2, 70*time.Second, "connect_timeout", "dial tcp 10.30.4.8:5432: i/o timeout", nil),
		refused(5, 6*time.Minute, "auth", "", nil),
		refused(3, 24*time.Minute, "blocked", "", nil),
	}
	return s.settle()
}

func reload() *State {
	s := &State{cluster: cluster(3), sessions: sessions(31, 3)}
	last := &s.cluster.Replicas[2]
	last.Generation, last.Digest, last.ReloadError = older, "7be0c512", "open /etc/usher/sockd.conf: permission denied"
	old := func(l api.Limit, most int64, shares ...int) api.Limit {
		was := use(l.Rule, l.Name, 11, most, shares...)
		was.Generation, was.Current = older, false
		return was
	}
	web := use("s1", "web", 12, 12, 3, 2)
	databases := use("s2", "databases", 19, 40, 4, 1)
	gone := use("s3", "partners", 27, 25, 2, 1, 4)
	gone.Generation, gone.Current = older, false
	s.limits = []api.Limit{web, databases, old(web, 10, 2, 1, 4), old(databases, 30, 3, 5, 4), gone}
	for i := range s.sessions {
		if i%2 == 1 {
			s.sessions[i].Generation = older
		}
	}
	return s.settle()
}

func storeDown() *State {
	s := busy()
	s.cluster.Store = api.Store{
		Address: "redis.internal:6379", Joined: true, LeaseSeconds: 10, Failure: "dial tcp 10.20.0.5:6379: connect: connection refused", FailingSince: Now.Add(-47 * time.Second),
	}
	s.refusals = append([]record.End{
		refused(1, time.Second, "store_unavailable", "dial tcp 10.20.0.5:6379: connect: connection refused", nil),
		refused(0, 3*time.Second, "store_unavailable", "dial tcp 10.20.0.5:6379: connect: connection refused", nil),
	}, s.refusals...)
	return s
}

func replicaDead() *State {
	s := busy()
	silent, dead := &s.cluster.Replicas[1], &s.cluster.Replicas[2]
	silent.State, silent.Error, silent.Sessions = api.Silent, "no answer within 1s", 0
	dead.State, dead.Error, dead.Seen, dead.Sessions = api.Dead, "no answer within 250ms", Now.Add(-3*time.Minute), 0
	silent.Generation, dead.Generation = "", "" // nobody tells
	s.cluster.Missing = []api.Missing{{Replica: "usher-2", Address: "10.20.0.12:9090", Error: "no answer within 1s"}}
	s.sessions = slices.DeleteFunc(s.sessions, func(r record.Running) bool { return r.Replica != "usher-1" })
	for i := range s.limits {
		l := &s.limits[i]
		l.Shares = l.Shares[:1]
		if len(l.Keys) == 0 && l.Name != "web" {
			l.Sessions -= 2
		}
	}
	return s
}

func drained() *State {
	s := busy()
	r := &s.cluster.Replicas[1]
	r.State, r.Ready, r.Reason = api.Draining, false, "drained: the process takes no new sessions until usher undrain"
	return s
}

// Thousand returns a cluster with so many limits and sessions.
func Thousand(limits, running int) *State {
	s := &State{cluster: cluster(3), sessions: sessions(running, 3)}
	departments := strings.Fields("sales billing research archive print voice video backup build test stage web mail dns ldap sap")
	for i := range limits {
		most := 5 + i*i%120
		used := most * (i * 7919 % 104) / 100
		l := use(fmt.Sprintf("s%d", i+1), fmt.Sprintf("%s-%d", departments[i%len(departments)], i/len(departments)+1), 10+4*i,
			int64(most), used/3, used/3, used-used/3*2)
		if used >= most {
			l.Refused = uint64(i % 9)
		}
		s.limits = append(s.limits, l)
	}
	for i := range 1000 {
		s.refusals = append(s.refusals, refused(i, time.Duration(i)*700*time.Millisecond, "limit", "session.max", nil))
	}
	return s.settle()
}
