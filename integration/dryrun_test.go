package integration

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

const wouldRefuse = "usher_sessions_would_refuse_total"

// dryRun is standard(10), with a limit that only reports.
func dryRun(limited, free endpoint) string {
	return strings.Replace(standard(10)(limited, free), "maxsessions: 10", "maxsessions: 10\n\tsession.mode: report", 1)
}

// would returns how many sessions the living replicas have reported.
func (w *world) would() (n float64) {
	for _, r := range w.living() {
		n += r.metrics(w.t).sum(wouldRefuse)
	}
	return n
}

// waitCounted waits until the store counts n sessions of the limited rule.
func (w *world) waitCounted(n int64) {
	w.t.Helper()
	eventually(w.t, patience, func() string {
		for _, r := range w.living() {
			if got := r.status(w.t).counted(true); got != n {
				return fmt.Sprintf("%s: the store counts %d sessions, want %d", r.name, got, n)
			}
		}
		return ""
	})
}

// TestDryRunIsExact: over three replicas, a limit of 10 that only reports admits all of
// 40 sessions and reports exactly 30. Sessions of a killed replica count until it is
// expired.
func TestDryRunIsExact(t *testing.T) {
	w := newWorld(t, options{rules: dryRun, alone: true})
	var held [3]crowd
	var asking sync.WaitGroup
	for i, r := range w.replicas {
		asking.Go(func() { held[i] = client{proxy: r.socks}.ask(t, 13+i/2, w.limited.String()) })
	}
	asking.Wait()
	for i, c := range held {
		c.want(t, 13+i/2, granted)
	}
	if n := w.would(); n != 30 {
		t.Errorf("%v of 40 sessions would have been refused, want 30", n)
	}
	w.waitCounted(40)

	w.replicas[0].kill()
	for _, c := range held[1:] {
		c[3:].close() // three sessions stay on each
	}
	w.waitCounted(6)
	before := w.would()
	for _, r := range w.replicas[1:] {
		asking.Go(func() { client{proxy: r.socks}.ask(t, 10, w.limited.String()).want(t, 10, granted) })
	}
	asking.Wait()
	if n := w.would() - before; n != 16 {
		t.Errorf("%v of 20 sessions would have been refused while 6 ran, want 16", n)
	}
	for _, c := range held[1:] {
		c[:3].want(t, 3, granted)
	}
	said := 0
	for _, r := range w.replicas {
		said += strings.Count(r.proc.out.String(), "would_refuse")
	}
	if said == 0 {
		t.Error("no log line says would_refuse")
	}
}

// comers are clients of one target that come and go.
type comers struct {
	target                             string
	open, peak, asked, refused, failed atomic.Int64
	working                            sync.WaitGroup
	stop                               chan struct{}
}

// work opens sessions until stop, one after the other.
func (all *comers) work(c client) {
	for {
		select {
		case <-all.stop:
			return
		default:
		}
		a := c.connect(all.target)
		all.asked.Add(1)
		switch {
		case a.Conn != nil:
			all.enter(a)
			a.Close()
		case a.reply == notAllowed:
			all.refused.Add(1)
		default:
			all.failed.Add(1)
		}
	}
}

// enter uses a session for a while. Its end is counted before it ends, so open is never
// more than the replicas have.
func (all *comers) enter(a answer) {
	now := all.open.Add(1)
	for highest := all.peak.Load(); now > highest && !all.peak.CompareAndSwap(highest, now); highest = all.peak.Load() {
	}
	for range 20 {
		if !a.relays() {
			all.failed.Add(1)
			break
		}
	}
	all.open.Add(-1)
}

// watch lets 300 more clients ask, and returns how many of them were refused and how
// many sessions were open at a time.
func (all *comers) watch(t *testing.T) (turnedAway, together int64) {
	t.Helper()
	begin, before := all.asked.Load(), all.refused.Load()
	all.peak.Store(0)
	eventually(t, patience, func() string {
		if n := all.asked.Load() - begin; n < 300 {
			return fmt.Sprintf("only %d clients have asked", n)
		}
		return ""
	})
	return all.refused.Load() - before, all.peak.Load()
}

// TestDryRunReloads changes the mode of a pool on one replica after the other, under
// traffic. While all replicas report, nobody is refused. Once all enforce and enough
// sessions have ended, no more than the maximum run.
func TestDryRunReloads(t *testing.T) {
	const most = 10
	dry := func(limited, free endpoint) string {
		return strings.Replace(dryRun(limited, free), "session.mode", "session.pool: dry\n\tsession.mode", 1)
	}
	w := newWorld(t, options{rules: dry, alone: true})
	enforced := strings.Replace(dry(w.limited, w.free), "session.mode: report", "session.mode: enforce", 1)

	all := comers{target: w.limited.String(), stop: make(chan struct{})}
	defer all.working.Wait()
	defer close(all.stop)
	for i := range 30 {
		all.working.Go(func() { all.work(client{proxy: w.replicas[i%3].socks}) })
	}
	for range 2 {
		if n, together := all.watch(t); n != 0 || together <= most || w.would() == 0 {
			t.Errorf("while the limit only reports, %d were refused, %d ran together and %v were reported", n, together, w.would())
		}
		w.reload(enforced, true)
		eventually(t, patience, func() string {
			if n := all.open.Load(); n > most {
				return fmt.Sprintf("%d sessions run", n)
			}
			return ""
		})
		if n, together := all.watch(t); n == 0 || together > most {
			t.Errorf("while the limit is enforced, %d were refused and %d ran together", n, together)
		}
		before := w.would()
		all.watch(t)
		if n := w.would() - before; n != 0 {
			t.Errorf("while the limit is enforced, %v were reported", n)
		}
		w.reload(dry(w.limited, w.free), true)
		all.asked.Store(0)
		eventually(t, patience, func() string { // whoever asked under the rules before has its answer
			if n := all.asked.Load(); n < 60 {
				return fmt.Sprintf("only %d clients have asked", n)
			}
			return ""
		})
	}
	if n := all.failed.Load(); n > 0 {
		t.Errorf("%d clients got another answer than their target's", n)
	}
}

// dryKind is a limit that only reports, and clients that ask for more than it has.
type dryKind struct {
	name     string
	rules    []string // the names of those that have the limit
	command  string
	targets  []string // in turn
	clients  []netip.Addr
	each     int  // sessions of each client on each replica
	reported int  // of all sessions
	counted  bool // while they run; a rate counts no running sessions
}

// TestDryRunOfEachKind: limits of each kind that only report admit all sessions over
// three replicas, report exactly those above the limit, and count none that has ended.
func TestDryRunOfEachKind(t *testing.T) {
	pooled := [2]endpoint{startEcho(t).endpoint(), startEcho(t).endpoint()}
	w := newWorld(t, options{
		alone: true, shards: 2, env: map[string]string{"USHER_LEASE_LOSS": "close"},
		rules: func(limited, free endpoint) string {
			return fmt.Sprintf(`
client pass { from: 0/0 to: 0/0 }
socks pass { from: 0/0 to: %s  command: connect  rule.name: key  session.mode: report  session.state.key: from  session.state.max: 2 }
socks pass { from: 0/0 to: %s  command: connect  rule.name: rate  session.mode: report  session.throttle: 4/86400 }
socks pass { from: 0/0 to: 0/0  command: bind  rule.name: bind  session.mode: report  maxsessions: 4 }
socks pass { from: 0/0 to: 0/0  command: bindreply }
socks pass { from: 0/0 to: 0/0  command: udpassociate  rule.name: udp  session.mode: report  maxsessions: 4 }
socks pass { from: 0/0 to: %s  command: connect  rule.name: pool1  session.mode: report  session.pool: dry  session.max: 4 }
socks pass { from: 0/0 to: %s  command: connect  rule.name: pool2  session.mode: report  session.pool: dry  session.max: 4 }
`, limited.to(), free.to(), pooled[0].to(), pooled[1].to())
		},
	})
	one, three := []netip.Addr{source(1)}, []netip.Addr{source(1), source(2), source(3)}
	anywhere := []string{"0.0.0.0:0"}
	for _, k := range []dryKind{
		{"by key", []string{"key"}, "connect", []string{w.limited.String()}, three, 2, 3 * (6 - 2), true},
		{"rate", []string{"rate"}, "connect", []string{w.free.String()}, one, 4, 12 - 4, false},
		{"BIND", []string{"bind"}, "bind", anywhere, one, 4, 12 - 4, true},
		{"UDP ASSOCIATE", []string{"udp"}, "associate", anywhere, one, 4, 12 - 4, true},
		{"pool", []string{"pool1", "pool2"}, "connect", []string{pooled[0].String(), pooled[1].String()}, one, 4, 12 - 4, true},
	} {
		t.Run(k.name, func(t *testing.T) {
			t.Parallel()
			w.dryRunOf(t, k)
		})
	}
}

// dryRunOf opens the sessions of one kind, and ends them.
func (w *world) dryRunOf(t *testing.T, k dryKind) {
	all := make(crowd, len(w.replicas)*len(k.clients)*k.each)
	together(len(all), func(i int) {
		round := i / len(w.replicas)
		c := client{proxy: w.replicas[i%len(w.replicas)].socks, from: k.clients[round%len(k.clients)]}
		all[i] = c.command(k.command, k.targets[i%len(k.targets)])
	})
	t.Cleanup(all.close)
	if got := all.replies()[granted]; got != len(all) {
		t.Fatalf("replies (reply: how many) %v, want %d granted", all.replies(), len(all))
	}
	var peers crowd
	if k.command == "bind" {
		peers = all[:len(all)/2].meetPeers(t)
	}
	if k.counted {
		w.waitRules(t, k.rules, int64(len(all)))
	}
	all.close()
	peers.close()
	w.waitRules(t, k.rules, 0)

	eventually(t, patience, func() string { // simultaneous scrapes share an answer, which may be a moment old
		reported := 0.0
		for _, rule := range k.rules {
			for _, r := range w.replicas {
				reported += r.metrics(t).sum(wouldRefuse, fmt.Sprintf("rule=%q", rule))
			}
		}
		if reported != float64(k.reported) {
			return fmt.Sprintf("%v of %d sessions would have been refused, want %d", reported, len(all), k.reported)
		}
		return ""
	})
	w.waitLogged(t, k, len(all))
}

// meetPeers connects to each of these waiting BINDs.
func (c crowd) meetPeers(t *testing.T) (peers crowd) {
	t.Helper()
	for _, a := range c {
		peer, err := net.DialTimeout("tcp", a.bound.String(), patience)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { peer.Close() })
		if second := readReply(a); second.reply != granted {
			t.Fatalf("second reply %d, %v", second.reply, second.err)
		}
		peers = append(peers, answer{Conn: peer})
	}
	return peers
}

// waitRules waits until every replica knows that the store counts n sessions for each
// of the rules.
func (w *world) waitRules(t *testing.T, rules []string, n int64) {
	t.Helper()
	eventually(t, patience, func() string {
		for _, r := range w.replicas {
			seen := 0
			for _, l := range r.status(t).Rules.Limits {
				if !slices.Contains(rules, l.Name) {
					continue
				}
				seen++
				if l.Sessions != n {
					return fmt.Sprintf("%s: the store counts %d sessions of %s, want %d", r.name, l.Sessions, l.Name, n)
				}
			}
			if seen != len(rules) {
				return fmt.Sprintf("%s shows %d of the limits of %v", r.name, seen, rules)
			}
		}
		return ""
	})
}

// waitLogged waits for the log lines of all sessions of a kind, and checks how many of
// them say would_refuse.
func (w *world) waitLogged(t *testing.T, k dryKind, sessions int) {
	t.Helper()
	var reported int
	eventually(t, patience, func() string {
		ended := 0
		reported = 0
		for _, r := range w.replicas {
			for text := range strings.Lines(r.proc.out.String()) {
				var line struct {
					Session, Rule string
					RuleName      string `json:"rule_name"`
					WouldRefuse   string `json:"would_refuse"`
				}
				if json.Unmarshal([]byte(text), &line) != nil || line.Session == "" || !slices.Contains(k.rules, line.RuleName) {
					continue
				}
				ended++
				if strings.HasPrefix(line.WouldRefuse, line.Rule+" ") {
					reported++
				}
			}
		}
		if ended != sessions {
			return fmt.Sprintf("%d sessions of %v are logged, want %d", ended, k.rules, sessions)
		}
		return ""
	})
	if reported != k.reported {
		t.Errorf("the log says would_refuse of %d sessions, want %d", reported, k.reported)
	}
}
