package integration

import (
	"fmt"
	"syscall"
	"testing"
	"time"
)

// fault is something that goes wrong while all limits are full.
type fault struct {
	name   string
	run    func(*trial)
	before func(*testing.T, *faultWorld) // before the first session; nil: nothing
}

// TestFaultsStrict runs all faults against replicas that end sessions whose lease is
// lost. At no moment can more sessions than the limit relay.
func TestFaultsStrict(t *testing.T) {
	faults := []fault{}
	for kind := cutBefore; kind < faultKinds; kind++ {
		faults = append(faults, fault{name: "network: " + kind.String(), run: wire(only(kind, 0.15))})
	}
	testFaults(t, faultOptions{net: 2, strict: true, pool: []int{4, 4, 4}}, append(faults,
		fault{name: "network: all of it", run: wire(mix{cutBefore: 0.05, cutAfter: 0.05, late: 0.05, lateByOther: 0.03, blackHole: 0.02, delayed: 0.1})},
		fault{name: "network: one replica cut off", run: cutOff},
		fault{name: "network: all replicas cut off", run: allCutOff},
		fault{name: "store: killed, back empty", run: emptyShort},
		fault{name: "store: killed, long away", run: emptyLong},
		fault{name: "store: back from an older snapshot", run: olderSnapshot},
		fault{name: "store: back from a snapshot older than a replica", run: newcomerFirst, before: newcomer},
		fault{name: "store: copies that outlive a restart", run: lateOverRestarts},
		fault{name: "store: rolled back in place", run: rolledBack},
		fault{name: "store: follows a replica that lags, and leads again", run: failedBack},
		fault{name: "store: FLUSHALL", run: flushed},
		fault{name: "store: one key lost", run: oneKeyLost},
		fault{name: "store: SCRIPT FLUSH", run: scriptsFlushed},
		fault{name: "store: CLIENT PAUSE", run: paused},
		fault{name: "store: stopped", run: stopped},
		fault{name: "store: unable to save", run: unableToSave},
		fault{name: "store: memory full", run: memoryFull},
		fault{name: "store: keys evicted", run: evicted},
		fault{name: "replica: stopped for a moment", run: stoppedBriefly},
		fault{name: "replica: stopped and woken", run: stoppedLong},
		fault{name: "replica: killed", run: killed},
	))
}

// TestFaultsKeep runs all faults against replicas that keep sessions whose lease is
// lost. Only sessions of replicas that were cut off may exceed a limit. If all replicas
// were cut off, none may.
func TestFaultsKeep(t *testing.T) {
	testFaults(t, faultOptions{net: 3, pool: []int{4, 4, 4}}, []fault{
		{name: "network: one replica cut off", run: cutOff},
		{name: "network: all replicas cut off", run: allCutOff},
		{name: "store: killed, long away", run: emptyLong},
		{name: "store: back from an older snapshot", run: olderSnapshot},
		{name: "store: follows a replica that lags, and leads again", run: failedBack},
		{name: "store: FLUSHALL", run: flushed},
		{name: "store: stopped", run: stopped},
		{name: "store: unable to save", run: unableToSave},
		{name: "replica: stopped and woken", run: stoppedLong},
		{name: "replica: killed", run: killed},
	})
}

func testFaults(t *testing.T, o faultOptions, faults []fault) {
	if testing.Short() {
		t.Skip("takes more than a minute")
	}
	t.Parallel() // most of it is waiting for leases
	o.limits, o.kinds = []int{5}, true
	f := newFaultWorld(t, o)
	for _, fault := range faults {
		ok := t.Run(fault.name, func(t *testing.T) {
			begin := time.Now()
			if fault.before != nil {
				fault.before(t, f)
			}
			f.underLoad(t, fault.run)
			t.Logf("took %v", time.Since(begin).Round(time.Millisecond))
		})
		if !ok {
			t.Fatal("what came after a failed fault would say little")
		}
	}
}

// onWires applies a mix of faults to the requests of all replicas while do runs, and
// until each fault has happened at least once.
func (r *trial) onWires(m mix, do func()) {
	r.t.Helper()
	before := r.happened()
	for _, p := range r.proxies {
		p.set(m)
	}
	do()
	var told string
	eventually(r.t, patience, func() string {
		now := r.happened()
		told = ""
		for k := cutBefore; k < faultKinds; k++ {
			if m[k] == 0 {
				continue
			}
			if now[k] == before[k] {
				return "nothing happened of the kind: " + k.String()
			}
			told += fmt.Sprintf("%s %d, ", k, now[k]-before[k])
		}
		told += fmt.Sprintf("passed %d", now[pass]-before[pass])
		return ""
	})
	for _, p := range r.proxies {
		p.set(mix{})
	}
	r.t.Log(told)
}

// happened returns how often each fault has happened so far, over all proxies.
func (f *faultWorld) happened() (all [faultKinds]int) {
	for _, p := range f.proxies {
		for k, n := range p.counts() {
			all[k] += n
		}
	}
	return all
}

// wire returns a fault that applies a mix to all requests. Sessions must be admitted in
// spite of it.
func wire(m mix) func(*trial) {
	return func(r *trial) {
		had := r.replies[granted].Load()
		r.onWires(m, func() { r.last(faultTTL) })
		if r.replies[granted].Load() == had {
			r.t.Error("nobody was admitted meanwhile")
		}
	}
}

// excuse names the sessions that may exceed the limit: those that a replica already had
// when it was cut off. The zero value names none.
type excuse struct {
	replica     int
	from, until time.Duration // it was cut off, and counted again
}

func (e excuse) covers(s proven) bool {
	return e.until > 0 && s.replica == e.replica && s.from < e.until
}

// excess returns how many excused sessions a target has, at most at one moment. Call it
// after the run: only later traffic proves that a session was alive.
func (r *trial) excess(target int) int {
	n, _ := most(r.truth.spans(target, r.excused.covers), r.excused.from)
	return n
}

// others returns a filter for the sessions of all replicas but one.
func others(replica int) func(proven) bool {
	return func(s proven) bool { return s.replica != replica }
}

// cutOff cuts one replica off until the others have taken all its slots.
func cutOff(r *trial) {
	victim := 0
	r.proxies[victim].set(partition)
	at := r.truth.now()
	took := r.saturated(others(victim))
	r.t.Logf("the others had all slots after %v of a TTL of %v", took.Round(time.Millisecond), faultTTL)
	healed := r.truth.now()
	r.proxies[victim].set(mix{})
	if r.strict {
		r.endedBy(at+faultFence, victim, healed)
	}
	r.joinedAgain(victim, at)
}

// joinedAgain waits until a replica that was cut off is counted again. In keep mode it
// also checks that the excess drains: nobody is admitted while as many sessions as the
// limit exist.
func (r *trial) joinedAgain(victim int, cut time.Duration) {
	waitSince := r.truth.now()
	eventually(r.t, patience, func() string {
		if st := r.replicas[victim].status(r.t).Store; !st.Joined || st.Recovering || st.ReplicaCount != len(r.replicas) {
			return fmt.Sprintf("it does not count again: %+v", st)
		}
		return ""
	})
	joined := r.truth.now()
	r.t.Logf("it counted again after %v", (joined - waitSince).Round(time.Millisecond))
	if !r.strict {
		r.excused = excuse{victim, cut, joined}
	}
	r.last(faultTTL / 2)
	r.atEnd = append(r.atEnd, func() { r.noRefill(joined) })
}

// noRefill checks that nobody who asked after a moment was admitted above the limit.
func (r *trial) noRefill(joined time.Duration) {
	r.t.Helper()
	for i, limit := range r.limits {
		for _, s := range r.truth.some(i, func(s proven) bool { return s.asked > joined }) {
			// All sessions that existed while s asked, and s itself.
			n := len(r.truth.some(i, func(o proven) bool { return o.from <= s.asked && o.until >= s.from })) + 1
			if n > limit {
				r.t.Errorf("target %d: session %d was admitted as number %d after the replica had joined again", i, s.id, n)
			}
		}
	}
}

// allCutOff cuts off all replicas for longer than their leases.
func allCutOff(r *trial) {
	for _, p := range r.proxies {
		p.set(partition)
	}
	at := r.truth.now()
	r.last(longOutage)
	healed := r.truth.now()
	for _, p := range r.proxies {
		p.set(mix{})
	}
	if r.strict {
		r.endedBy(at+faultFence, -1, healed)
	} else {
		r.someSurvive(-1, span{at, healed})
	}
}

// stoppedBriefly stops a replica for less than its lease. It must lose nothing.
func stoppedBriefly(r *trial) {
	victim := 1
	var spans []span
	for range 3 {
		at := r.halt(r.replicas[victim].proc.cmd.Process.Pid)
		r.last(faultTTL / 5)
		r.replicas[victim].signal(syscall.SIGCONT)
		spans = append(spans, span{at, r.truth.now()})
		r.last(faultTTL / 5)
	}
	r.someSurvive(victim, spans...)
}

// stoppedLong stops a replica until the others have taken all its slots, and continues
// it while its clients still send.
func stoppedLong(r *trial) {
	victim := 1
	at := r.halt(r.replicas[victim].proc.cmd.Process.Pid)
	took := r.saturated(others(victim))
	r.t.Logf("the others had all slots after %v of a TTL of %v", took.Round(time.Millisecond), faultTTL)
	r.last(faultTTL / 5)
	woken := r.truth.now()
	r.replicas[victim].signal(syscall.SIGCONT)
	if r.strict {
		r.endedBy(at+faultFence, victim, woken)
	}
	r.joinedAgain(victim, at)
}

// killed kills a replica, and starts another one instead.
func killed(r *trial) {
	victim := 2
	r.replicas[victim].kill()
	at := r.truth.now()
	took := r.saturated(others(victim))
	r.t.Logf("the others had all slots after %v of a TTL of %v", took.Round(time.Millisecond), faultTTL)
	r.endedBy(at, victim, at)
	r.replace(r.t, victim)
}

// replace starts a replica instead of one that was killed.
func (f *faultWorld) replace(t *testing.T, victim int) {
	t.Helper()
	f.replicas[victim] = f.launch[victim]()
	f.waitSettled(t)
}
