package integration

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"usher/deploy/need"
)

// go-redis logs each failed dial. In these tests, dials fail most of the time.
func init() { redis.SetLogger(quiet{}) }

type quiet struct{}

func (quiet) Printf(context.Context, string, ...any) {}

var faultSeed = flag.Uint64("faults.seed", 0, "repeats the random choices of a run of the fault tests; 0 makes new ones")

// seedOf returns the seed of this run, and prints it.
func seedOf(t testing.TB) uint64 {
	t.Helper()
	seed := *faultSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("-faults.seed=%d", seed)
	return seed
}

// faultTTL is the lease TTL of the replicas under faults. faultFence is the part of it
// that they rely on.
const (
	faultTTL   = 2 * time.Second
	faultFence = faultTTL * 7 / 10
)

// faultWorld is replicas, their shared store, and targets. Each target has a limit, and
// witnesses its sessions.
type faultWorld struct {
	deployment
	strict   bool
	seed     uint64
	truth    *truth
	replicas []*replica
	socks    []string // their addresses, which outlive them
	launch   []func() *replica
	net      int
	targets  []*faultTarget
	limits   []int     // of the targets
	rules    string    // with poolNumber
	files    []string  // of the replicas: their rules
	idle     []metrics // of the replicas before their first session
}

// faultOptions of a faultWorld.
type faultOptions struct {
	net    int   // third octet of the replicas' addresses, one per world
	limits []int // plain ones, per rule
	pool   []int // the number of a pool on each replica; nil: there is no pool
	kinds  bool  // and one of each other kind
	strict bool
	env    map[string]string
	deploy func(t *testing.T, seed uint64) deployment // nil: one server behind fault proxies
}

func newFaultWorld(t *testing.T, o faultOptions) *faultWorld {
	t.Helper()
	f := &faultWorld{strict: o.strict, seed: seedOf(t), truth: newTruth(), net: o.net}
	if o.deploy == nil {
		o.deploy = oneServer
	}
	f.deployment = o.deploy(t, f.seed)
	f.rules = f.addTargets(t, o.limits, o.kinds, o.pool)
	socksPort, adminPort := need.Port(t), need.Port(t)
	for i, url := range f.urls {
		f.files = append(f.files, fmt.Sprintf("%s/sockd-%d.conf", t.TempDir(), i+1))
		number := 0
		if o.pool != nil {
			number = o.pool[i]
		}
		f.write(t, i, f.rules, number)
		env := map[string]string{
			"USHER_CONFIG": f.files[i], "USHER_STORE": url,
			"USHER_LEASE_TTL": faultTTL.String(), "USHER_LEASE_LOSS": "keep",
			"USHER_STORE_WAIT": "500ms", // clients are to come back soon, as the store is often away
		}
		if o.strict {
			env["USHER_LEASE_LOSS"] = "close"
		}
		for k, v := range o.env {
			env[k] = v
		}
		host := fmt.Sprintf("127.0.%d.%d", o.net, i+1)
		f.launch = append(f.launch, func() *replica {
			return launchReplica(t, fmt.Sprintf("usher %d", i+1), host, socksPort, adminPort, env)
		})
		f.replicas = append(f.replicas, f.launch[i]())
		f.socks = append(f.socks, f.replicas[i].socks)
	}
	f.waitSettled(t)
	for _, r := range f.replicas {
		f.idle = append(f.idle, r.metrics(t))
	}
	return f
}

// write writes the rules of a replica, with a number for the pool.
func (f *faultWorld) write(t testing.TB, replica int, rules string, number int) {
	t.Helper()
	writeFile(t, f.files[replica], strings.ReplaceAll(rules, poolNumber, fmt.Sprint(number)))
}

// waitSettled waits until all replicas have joined a store that is ready, and know each
// other.
func (f *faultWorld) waitSettled(t testing.TB) {
	t.Helper()
	for _, r := range f.replicas {
		r.waitReady(t)
	}
	eventually(t, 2*patience, func() string {
		for _, r := range f.replicas {
			if st := r.status(t).Store; !st.Joined || st.Recovering || st.ReplicaCount != len(f.replicas) {
				return fmt.Sprintf("%s and its store: %+v, want %d replicas", r.name, st, len(f.replicas))
			}
		}
		return ""
	})
}

// epoch returns the identity of a shard's data, "" if it has none.
func (f *faultWorld) epoch(t testing.TB, s shard) string {
	b, err := f.db.HGet(t.Context(), s.members(), "birth").Result()
	if err != nil && err != redis.Nil { //nolint:errorlint // go-redis returns it bare
		return "unknown: " + err.Error()
	}
	return b
}

// waitNewEpoch waits until a shard has data of another epoch.
func (f *faultWorld) waitNewEpoch(t testing.TB, s shard, before string) {
	t.Helper()
	eventually(t, patience, func() string {
		if b := f.epoch(t, s); b == before || b == "" || strings.HasPrefix(b, "unknown") {
			return fmt.Sprintf("the data of %s is of epoch %q, was %q", s.tag(), b, before)
		}
		return ""
	})
}

// trial is one period under load. What it checks at the end holds for the whole period.
type trial struct {
	*faultWorld
	t       *testing.T
	began   time.Duration
	stop    chan struct{}
	working sync.WaitGroup
	replies [3]atomic.Int64        // granted, failure, notAllowed
	audits  []int                  // by shard: looks at its counts
	trouble atomic.Pointer[string] // what the auditor found first
	excused excuse                 // keep: sessions that may stand above the limit
	atEnd   []func()               // further checks
}

// underLoad keeps all limits full while fault runs. It checks that never more sessions
// than the limit could relay, that the counts in the store added up all the time, and
// that afterwards each limit can be filled exactly, with nothing left behind.
func (f *faultWorld) underLoad(t *testing.T, fault func(r *trial)) {
	t.Helper()
	f.truth.next()
	r := &trial{
		faultWorld: f, t: t, began: f.truth.now(), stop: make(chan struct{}),
		audits: make([]int, f.shards),
	}
	for i := range f.replicas {
		for target := range f.targets {
			for n := range keys {
				r.working.Go(func() { r.work(i, target, n) })
			}
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	r.working.Go(func() { r.audit(ctx) })
	func() {
		defer func() { close(r.stop); cancel(); r.working.Wait() }()
		r.saturated(nil)
		fault(r)
		r.recovered()
	}()
	r.judge()
	f.refill(t)
}

// work lets clients ask one replica for one target, one client after another. With n =
// 0, sessions stay to the end, so that there are always old sessions to lose.
func (r *trial) work(replica, target, n int) {
	dice := rand.New(rand.NewPCG(r.seed, uint64(replica*100+target*10+n)))
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		select {
		case <-r.stop:
			return
		case <-pause.C:
		}
		asked := r.truth.now()
		a := r.targets[target].ask(client{proxy: r.socks[replica], from: r.from(n)})
		if a.reply >= 0 && a.reply < len(r.replies) {
			r.replies[a.reply].Add(1)
		}
		if a.Conn != nil {
			most := 30*time.Millisecond + time.Duration(dice.Int64N(int64(300*time.Millisecond)))
			s := r.truth.admitted(target, replica, n, asked)
			switch {
			case r.targets[target].halfDone:
				r.truth.finish(s, a.Conn, most, r.stop)
			case n == 0:
				r.truth.hold(s, a.Conn, time.Hour, r.stop)
			default:
				r.truth.hold(s, a.Conn, most, r.stop)
			}
		}
		pause.Reset(10*time.Millisecond + time.Duration(dice.Int64N(int64(40*time.Millisecond))))
	}
}

// saturated waits until each limit is full of sessions that pass the filter and can all
// relay at one moment from now on.
func (r *trial) saturated(filter func(proven) bool) (took time.Duration) {
	r.t.Helper()
	since := r.truth.now()
	eventually(r.t, 2*patience, func() string {
		for i, limit := range r.limits {
			if n, _ := most(r.truth.spans(i, filter), since); n < limit {
				return fmt.Sprintf("target %d: at most %d relay, want %d", i, n, limit)
			}
		}
		return ""
	})
	return r.truth.now() - since
}

// recovered waits until the store is ready, new sessions are admitted, and the limits
// are full.
func (r *trial) recovered() {
	r.t.Helper()
	r.waitSettled(r.t)
	since := r.truth.now()
	eventually(r.t, patience, func() string {
		for i := range r.targets {
			if len(r.truth.some(i, func(s proven) bool { return s.asked > since })) == 0 {
				return fmt.Sprintf("target %d: nobody is admitted", i)
			}
		}
		return ""
	})
	r.saturated(nil)
}

// last continues the load for a while.
func (r *trial) last(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-r.t.Context().Done():
	}
}

// endedBy checks after the run that no session of a replica (-1: of any) that was
// admitted before could relay later.
func (r *trial) endedBy(at time.Duration, replica int, before time.Duration) {
	r.atEnd = append(r.atEnd, func() {
		for i := range r.targets {
			for _, s := range r.truth.some(i, func(s proven) bool { return replica < 0 || s.replica == replica }) {
				if s.from < before && s.until > at {
					r.t.Errorf("session %d of target %d on replica %d could relay %v after its lease deadline",
						s.id, i, s.replica+1, s.until-at)
				}
			}
		}
	})
}

// someSurvive checks after the run that a session of a replica (-1: of any) could relay
// before and after one of the spans. A single short span may have none by chance.
func (r *trial) someSurvive(replica int, spans ...span) {
	r.atEnd = append(r.atEnd, func() {
		n := 0
		for i := range r.targets {
			n += len(r.truth.some(i, func(s proven) bool {
				return (replica < 0 || s.replica == replica) && slices.ContainsFunc(spans, func(t span) bool {
					return s.from <= t.from && s.until >= t.until
				})
			}))
		}
		r.t.Logf("%d sessions survived", n)
		if n == 0 {
			r.t.Errorf("no session outlived any of %v", spans)
		}
	})
}

// judge checks what must hold for the whole run.
func (r *trial) judge() {
	r.t.Helper()
	for _, check := range r.atEnd {
		check()
	}
	for i, limit := range r.limits {
		n, at := most(r.truth.spans(i, func(s proven) bool { return !r.excused.covers(s) }), r.began)
		if n > limit {
			r.t.Errorf("target %d: %d sessions could relay %v after the start, the limit is %d", i, n, at-r.began, limit)
		}
		r.judgeKeys(i)
		all, at := most(r.truth.spans(i, nil), r.began)
		if excess := r.excess(i); all > limit+excess {
			r.t.Errorf("target %d: %d sessions could relay %v after the start, the limit is %d and those cut off had %d",
				i, all, at-r.began, limit, excess)
		}
	}
	if trouble := r.trouble.Load(); trouble != nil {
		r.t.Errorf("the store: %s", *trouble)
	}
	if slices.Contains(r.audits, 0) {
		r.t.Errorf("looks at the counts, by shard: %v", r.audits)
	}
	r.t.Logf("%d granted, %d full, %d without an answer of the store; looks at the counts, by shard: %v",
		r.replies[granted].Load(), r.replies[notAllowed].Load(), r.replies[failure].Load(), r.audits)
	for i, rep := range r.replicas {
		if code, ended := rep.proc.ended(); ended {
			r.t.Fatalf("replica %d ended with code %d", i+1, code)
		}
	}
}

// judgeKeys checks limits by client address: no address exceeded its limit, and one
// reached it.
func (r *trial) judgeKeys(target int) {
	r.t.Helper()
	limit := r.targets[target].perKey
	if limit == 0 {
		return
	}
	reached := false
	for key := range keys {
		n, at := most(r.truth.spans(target, func(s proven) bool {
			return s.key == key && !r.excused.covers(s)
		}), r.began)
		reached = reached || n == limit
		if n > limit {
			r.t.Errorf("target %d: %d sessions of client %d could relay %v after the start, the limit is %d",
				target, n, key, at-r.began, limit)
		}
	}
	if !reached {
		r.t.Errorf("target %d: no client ever had %d sessions", target, limit)
	}
}
