// Package replica is the protocol of one replica for one shard of the store, as a
// state machine. It has no goroutine, lock, clock or IO, which a test asserts. So a
// simulation can run thousands of schedules of it.
//
// Input: Ask, Release, Withdraw, AdmitLocally, SetSpace, Leave, and Handle with the
// outcome of a request. Each takes the time, on a monotonic clock of the driver.
//
// Output: Next returns the request to send now. Effects returns what happened to
// waiting admissions and to slots. SleepUntil returns when there is something to do
// next.
//
// The driver, package limiter, has the clock, the lock and the connection.
//
// A replica trusts its table of live sessions. It computes what it sends to the store
// from this table, and never changes the table to fit the store. The store answers how
// many sessions of each counter the replica may hold.
package replica

import (
	"math"
	"time"

	"usher/store"
)

// Machine is the state machine. One request is under way at a time. It is not
// safe for concurrent use.
type Machine struct {
	id        string
	settings  store.Settings
	leased    bool // the store expects the lease to be renewed
	timing    timing
	newEpoch  func() string // makes the name of an epoch that a join may create
	chunk     int           // most entries of a request
	expireMax int           // most counters of a request to expire

	phase  phase
	link   link
	stream stream
	leases leases
	table  table
	queues queues
	claims []*counter // live sessions that a join has still to restate
	others others
	space  space

	effects []Effect
}

type phase int

const (
	detached   phase = iota // the store does not know us, or not what we hold
	claiming                // joined, but not all live sessions are restated yet
	live                    // joined
	mismatched              // others run with other settings: observe, and try again
	expiring                // the store gives back our slots: finish that, then join anew
	leaving                 // give everything back
	left
)

// link is the connection to the store, and the request that is under way.
type link struct {
	connected  bool
	busy       bool          // a request is under way
	notBefore  time.Duration // nothing is sent earlier, after a failure
	attachment uint64        // counts the times that we detached: outcomes of earlier requests are ignored
}

// stream is our ordered stream of batches.
type stream struct {
	number uint64
	acked  store.Token   // the last acknowledged, zero before the first
	resend *Request      // a batch whose outcome is unknown
	beatAt time.Duration // when the next heartbeat is due
}

// space is the counter space (digest of the rules), and what is shown of it.
type space struct {
	current string             // in force here
	acked   string             // as the store knows it
	number  uint64             // the store's number of acked
	watch   []string           // counters whose totals are wanted
	highest map[string]Highest // of these
}

// timing has the durations that follow from the TTL. A replica stops relying on its
// lease after 0.7 TTL, and others declare it dead after 0.75 TTL.
type timing struct {
	beat, look, gap, lease, witness, tombstone, request time.Duration
}

func timingOf(ttl time.Duration, leased bool) timing {
	t := timing{
		beat: ttl / 10, look: ttl / 10, gap: ttl * 3 / 10,
		lease:   ttl * 7 / 10, //mutate:no-lease-deadline
		witness: ttl * 3 / 4,  //mutate:witness-shorter-than-the-lease
		request: ttl / 10, tombstone: 4 * ttl,
	}
	if !leased {
		t.lease, t.witness = math.MaxInt64/2, 0
	}
	return t
}

// New returns the state machine of a replica with that id. newID makes the names
// of epochs that its joins may create; they must be unique.
func New(id string, s store.Settings, leased bool, newID func() string) *Machine {
	return &Machine{
		id: id, settings: s, leased: leased, timing: timingOf(s.TTL, leased), newEpoch: newID,
		chunk: store.MaxEntries, expireMax: store.MaxExpire,
		leases: leases{current: &lease{}}, table: newTable(), others: others{observer: newObserver()},
	}
}

// Effect tells the owner of an admission its result.
type Effect struct {
	Owner any   // as given to Ask or AdmitLocally
	Slot  *Slot // granted to an admission that waited; with Lost, taken away
	Err   error // why an admission that waited is refused
	Lost  bool
}

// Effects returns the decisions since the last call, in order. The slice is valid until
// the next event.
func (m *Machine) Effects() []Effect {
	out := m.effects
	if m.effects = nil; cap(out) <= 256 { // do not keep what a lost lease needed
		m.effects = out[:0]
	}
	return out
}

// SetSpace puts a counter space in force. watch are the counters whose totals Status
// reports, and of which Highest knows.
func (m *Machine) SetSpace(name string, watch []string) {
	m.space.current, m.space.watch = name, watch
	m.watched()
}

// Leave starts to leave the store: no session is admitted any more, and all slots are
// given back.
func (m *Machine) Leave() {
	if m.phase == left || m.phase == leaving {
		return
	}
	joined := m.joined()
	m.phase = leaving
	for _, c := range m.table.counters {
		for len(c.waiters) > 0 {
			m.answer(c, nil, ErrClosed)
		}
		m.refuseUntold(c) //mutate:a-reported-session-outlives-its-replica
	}
	m.link.notBefore = 0
	if !joined {
		m.phase = left // other replicas will expire us
	}
}

// Abandon ends without a request to the store. Other replicas will expire this one.
func (m *Machine) Abandon() { m.phase = left }

// Left reports whether the machine has ended. A request may still be under way.
func (m *Machine) Left() bool { return m.phase == left }

// Busy reports whether a request is under way.
func (m *Machine) Busy() bool { return m.link.busy }

// Connected reports whether the connection of the last request is good.
func (m *Machine) Connected() bool { return m.link.connected }

// Live reports whether the store knows this replica and all its sessions.
func (m *Machine) Live() bool { return m.phase == live }

// HasLease reports whether the replica is joined, and may rely on its lease.
func (m *Machine) HasLease(now time.Duration) bool {
	return m.phase == live && !m.leases.current.passed(now)
}

// Mismatched reports whether replicas with other settings were there when the
// store was last asked.
func (m *Machine) Mismatched() bool { return m.others.conflict.known() }

// RequestTimeout is how long a request may take.
func (m *Machine) RequestTimeout() time.Duration { return m.timing.request }

// LeaseTime is how long a lease lasts from the sending of the request that
// renewed it.
func (m *Machine) LeaseTime() time.Duration { return m.timing.lease }

// joined reports whether this replica is a member of the store.
func (m *Machine) joined() bool { return m.phase == live || m.phase == claiming }

// ending reports whether the replica admits no more sessions.
func (m *Machine) ending() bool { return m.phase == leaving || m.phase == left }

// Status is a snapshot for readiness, metrics and the status page.
type Status struct {
	Joined     bool              // the replica is a member of the store, and its lease runs
	WasReady   bool              // it was joined, and the store ready, at least once
	Recovering bool              // the store's data is new: it admits no new sessions yet
	Mismatch   string            // the settings of conflicting replicas, "" if there are none
	Generation uint64            // the store's number of the space in force here, 0 until it is known
	Replicas   map[string]string // the members of the store, and the space of each
	Totals     map[string]int64  // sessions over all replicas, of the counters named in SetSpace
	LeasesLost uint64            // leases that ended with sessions that relied on them
}

// Status returns a snapshot. A replica that was paused has no lease from the moment it
// runs again, also before CheckDeadlines has seen that.
func (m *Machine) Status(now time.Duration) Status {
	out := Status{
		Joined: m.joined() && !(m.leased && m.leases.current.passed(now)), WasReady: m.others.wasReady, Recovering: m.others.recovering,
		Replicas: map[string]string{}, Totals: map[string]int64{}, LeasesLost: m.leases.lapsed,
	}
	if m.Mismatched() {
		out.Mismatch = m.others.conflict.settings.String()
	}
	if m.space.current == m.space.acked {
		out.Generation = m.space.number
	}
	for _, member := range m.others.members.Members {
		out.Replicas[member.Replica] = member.Space
	}
	for _, c := range m.space.watch {
		out.Totals[c] = m.others.members.Totals[c]
	}
	return out
}
