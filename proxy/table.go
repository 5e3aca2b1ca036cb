package proxy

import (
	"cmp"
	"maps"
	"slices"
	"sync"

	"usher/limiter"
	"usher/proxy/rules"
	"usher/proxy/socks"
)

// Generation is a policy that is in force or still has sessions.
type Generation struct {
	Label    string // g5-9f31c2ab
	Number   uint64 // 0 if not known yet
	Digest   string // the name of the counter space
	Current  bool   // in force
	Rules    *rules.Set
	Sessions int // on this replica, negotiations and health checks among them
	// WouldRefuse is, by the position of a rule in session.mode report: how many sessions
	// it would have refused on this replica, in all generations with this digest.
	WouldRefuse map[string]uint64
}

// Count is the number of sessions of one kind on this replica.
type Count struct {
	Rule       string // that let it in last: c1 while it negotiates, then s1
	Label      string // of that rule in metrics
	Generation string
	Command    string // negotiate, connect, udpassociate
	Sessions   int
}

// table holds the sessions from accept to their end, and their generations.
type table struct {
	limiter *limiter.Limiter
	running sync.WaitGroup // goroutines of sessions; nothing is added after stop
	held    sync.RWMutex   // held while no session may begin or be admitted; taken before mu

	mu      sync.Mutex
	live    map[*session]struct{}
	gens    []*generation // those with sessions, and current, in the order in which they came
	current *generation
	cut     bool          // no session is added any more
	empty   chan struct{} // if not nil: closed when the last session has left
	ended   traffic       // of sessions that have ended

	refused limitRefusals // by counters of the generations
}

// traffic is the number of bytes relayed.
type traffic struct{ tcpUp, tcpDown, udpUp, udpDown int64 }

func (t *traffic) add(s *session) {
	up, down := &t.tcpUp, &t.tcpDown
	if s.stage.command == socks.UDPAssociate {
		up, down = &t.udpUp, &t.udpDown
	}
	*up += s.up.Load()
	*down += s.down.Load()
}

func newTable(l *limiter.Limiter) *table {
	return &table{limiter: l, live: make(map[*session]struct{})}
}

// setPolicy makes p the policy of the sessions that are added from now on.
func (t *table) setPolicy(p *Policy) {
	g := &generation{policy: p, decide: p.Decide(), digest: p.Rules.Digest(), would: map[string]uint64{}}
	g.number.Store(p.Number)
	t.mu.Lock()
	defer t.mu.Unlock()
	if old := t.current; old != nil {
		t.learnNumber()
		if old.digest == g.digest && p.Number == 0 && old.policy.Number == 0 {
			g.number.Store(old.number.Load())
		}
	}
	if same := slices.IndexFunc(t.gens, func(old *generation) bool { return old.digest == g.digest }); same >= 0 {
		g.would = t.gens[same].would
	}
	t.current = g
	t.gens = append(t.gens, g)
	t.forget()
}

// forget removes old generations without sessions, and tells the limiter which counters
// are left. t.mu is held.
func (t *table) forget() {
	t.gens = slices.DeleteFunc(t.gens, func(g *generation) bool {
		return g.sessions == 0 && g != t.current
	})
	var counters []string
	for _, g := range t.gens {
		counters = append(counters, g.counters()...)
	}
	slices.Sort(counters)
	counters = slices.Compact(counters)
	t.limiter.SetSpace(t.current.digest, counters)
	t.refused.keep(counters)
}

// learnNumber asks the limiter for the number of the current generation. Earlier
// generations with the same rules and without a number get the same one. t.mu is held,
// because the limiter knows only the number of the space in force.
func (t *table) learnNumber() {
	if t.current.number.Load() != 0 {
		return
	}
	number := t.limiter.Status().Generation
	for _, g := range t.gens {
		if g.digest == t.current.digest && g.number.Load() == 0 {
			g.number.Store(number)
		}
	}
}

// label returns the label of g, with the number if it is known.
func (t *table) label(g *generation) string {
	if g.number.Load() == 0 {
		t.mu.Lock()
		defer t.mu.Unlock()
		if g == t.current {
			t.learnNumber()
		}
	}
	return g.label()
}

// add adds s under the policy in force. It reports false if the server has stopped.
// Like renew, outdated and setStage, it waits while the table is held.
func (t *table) add(s *session) bool {
	t.held.RLock()
	defer t.held.RUnlock()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.cut {
		return false
	}
	s.gen = t.current
	s.gen.sessions++
	t.live[s] = struct{}{}
	t.running.Add(1)
	return true
}

// renew puts s under the policy in force, and reports whether that is another one. s is
// counted under no rule then.
func (t *table) renew(s *session) bool {
	t.held.RLock()
	defer t.held.RUnlock()
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.isOutdated(s) {
		return false
	}
	t.leave(s)
	s.gen, s.stage = t.current, stage{}
	s.gen.sessions++
	return true
}

// outdated reports whether s is not admitted yet, and the policy in force is another one
// than that of s.
func (t *table) outdated(s *session) bool {
	t.held.RLock()
	defer t.held.RUnlock()
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.isOutdated(s)
}

// isOutdated does what outdated does. t.mu is held.
func (t *table) isOutdated(s *session) bool { return s.gen != t.current && s.stage.command == 0 }

// setStage counts s under the rule r from now on. r has passed it for a command, or to
// negotiate if the command is 0. It does nothing and reports false if s is outdated: so
// no session is admitted by older rules than those in force.
func (t *table) setStage(s *session, r *rules.Rule, command socks.Command) bool {
	t.held.RLock()
	defer t.held.RUnlock()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.isOutdated(s) {
		return false
	}
	s.stage = stage{
		rule: r, command: command, unconfirmed: command != 0 && !s.grant.Confirmed(),
		waits:  r.Client && r.Session.Limited,
		client: s.stage.client, // the verdict about the request follows, if there is one
	}
	return true
}

// letIn records that s has its slot of the client-rule, if that has a limit, and what
// the limit would have done to s, if it did not only report.
func (t *table) letIn(s *session, v verdict) {
	if !s.stage.waits && v == 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	s.stage.waits, s.stage.client = false, v
}

// setConnected records that the client of s was told that it is connected.
func (t *table) setConnected(s *session) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s.stage.connected = true
}

// countReport counts that the limit of r, which only reports, would have refused s.
func (t *table) countReport(s *session, r *rules.Rule) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s.gen.would[r.ID()]++
}

// setRequestVerdict records what the limit of the socks-rule would have done to s, if it
// did not only report.
func (t *table) setRequestVerdict(s *session, v verdict) {
	if v == 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	s.stage.request = v
}

// remove removes s. It panics if s is not there. The goroutine of s must call
// running.Done afterwards.
func (t *table) remove(s *session) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, ok := t.live[s]; !ok {
		panic("proxy: a session is removed twice")
	}
	delete(t.live, s)
	t.ended.add(s)
	t.leave(s)
	if len(t.live) == 0 && t.empty != nil {
		close(t.empty)
		t.empty = nil
	}
}

// leave takes s out of its generation. t.mu is held.
func (t *table) leave(s *session) {
	s.gen.sessions--
	if s.gen.sessions == 0 && s.gen != t.current {
		t.forget()
	}
}

// inForce returns the generation in force.
func (t *table) inForce() *generation {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.current
}

// lives reports whether s has not been removed yet.
func (t *table) lives(s *session) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, lives := t.live[s]
	return lives
}

// whenEmpty returns a channel that is closed when there is no session.
func (t *table) whenEmpty() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.live) == 0 {
		closed := make(chan struct{})
		close(closed)
		return closed
	}
	if t.empty == nil {
		t.empty = make(chan struct{})
	}
	return t.empty
}

// stop makes add fail from now on. It returns the remaining sessions, and their number by
// kind.
func (t *table) stop() ([]*session, []Count) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.cut = true
	return slices.Collect(maps.Keys(t.live)), t.countLive()
}

// all returns the sessions, from accept to their end.
func (t *table) all() []*session {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Collect(maps.Keys(t.live))
}

func (t *table) generations() []Generation {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.learnNumber()
	var list []Generation
	for _, g := range t.gens {
		list = append(list, Generation{
			Label: g.label(), Number: g.number.Load(), Digest: g.digest, Current: g == t.current,
			Rules: g.policy.Rules, Sessions: g.sessions, WouldRefuse: maps.Clone(g.would),
		})
	}
	return list
}

// rules returns the rules of each generation. The last ones are in force.
func (t *table) rules() (list []*rules.Set) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, g := range t.gens {
		list = append(list, g.policy.Rules)
	}
	return list
}

func (t *table) counts() []Count {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.countLive()
}

// countLive does what counts does. t.mu is held.
func (t *table) countLive() []Count {
	t.learnNumber()
	sums := make(map[Count]int)
	for s := range t.live {
		if r := s.stage.rule; r != nil {
			sums[Count{Rule: r.ID(), Label: r.Label(), Generation: s.gen.label(), Command: commandName(s.stage.command)}]++
		}
	}
	list := make([]Count, 0, len(sums))
	for c, n := range sums {
		c.Sessions = n
		list = append(list, c)
	}
	slices.SortFunc(list, func(a, b Count) int {
		return cmp.Or(cmp.Compare(a.Generation, b.Generation), cmp.Compare(a.Rule, b.Rule), cmp.Compare(a.Command, b.Command))
	})
	return list
}

// relayed returns the traffic of running and ended sessions.
func (t *table) relayed() traffic {
	t.mu.Lock()
	defer t.mu.Unlock()
	sum := t.ended
	for s := range t.live {
		sum.add(s)
	}
	return sum
}
