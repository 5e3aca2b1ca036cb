package replica

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"usher/store"
	"usher/store/limit"
)

var simTrace = flag.Bool("sim.trace", false, "print every event of the simulation as it happens")

// traceLength is how many events a failure prints.
const traceLength = 200

// trace keeps the last events of a schedule.
type trace struct {
	ring [traceLength]traced
	n    int
}

// traced is an event. It is formatted only when it is printed.
type traced struct {
	at      time.Duration
	who     string // a replica, the store, or "world"
	what    string
	request *Request // what was sent
	outcome *Outcome // what the request came back with, or nil
	detail  any      // or something else
	phase   phase    // of a replica, after the event
}

func (e traced) String() string {
	line := fmt.Sprintf("%13v  %-5s  ", e.at, e.who)
	if e.who[0] == 'h' {
		line += fmt.Sprintf("%-10s  ", e.phase)
	} else {
		line += fmt.Sprintf("%-10s  ", "")
	}
	line += e.what
	switch {
	case e.outcome != nil:
		line += fmt.Sprintf(" %s: %s", e.request.Op, e.outcome.describe(e.request))
	case e.request != nil:
		line += " " + e.request.String()
	case e.detail != nil:
		line += fmt.Sprint(" ", e.detail)
	}
	return line
}

func (w *world) note(e traced) {
	e.at = w.now
	w.trace.ring[w.trace.n%traceLength] = e
	w.trace.n++
	if *simTrace {
		fmt.Fprintln(os.Stderr, e)
	}
}

// happens records an event of the world.
func (w *world) happens(what string, detail any) {
	w.note(traced{who: "world", what: what, detail: detail})
}

// does records an action or an event of a replica.
func (n *node) does(what string, detail any) {
	n.w.note(traced{who: n.m.id, what: what, detail: detail, phase: n.m.phase})
}

// report is printed when an invariant is broken: the last events, and the state of the
// replicas.
func (w *world) report() string {
	var b strings.Builder
	fmt.Fprintln(&b, "the letter is explained in docs/guarantees.md")
	first := max(0, w.trace.n-traceLength)
	fmt.Fprintf(&b, "the last %d of %d events:\n", w.trace.n-first, w.trace.n)
	for i := first; i < w.trace.n; i++ {
		fmt.Fprintln(&b, w.trace.ring[i%traceLength])
	}
	fmt.Fprintln(&b, "the replicas:")
	for _, n := range slices.Concat(w.nodes, w.stopped) {
		fmt.Fprintln(&b, n)
	}
	return b.String()
}

// String describes the state of a replica.
func (n *node) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "  %s %v, its clock %v, lease until %v, acknowledged %q", n.m.id, n.m.phase, n.clock(), n.m.leases.current.deadline, n.m.stream.acked)
	if n.w.now < n.paused {
		fmt.Fprintf(&b, ", paused until %v", n.paused)
	}
	if n.w.now < n.cut {
		fmt.Fprintf(&b, ", cut off until %v", n.cut)
	}
	if n.dead {
		b.WriteString(", ended")
	}
	fmt.Fprintf(&b, ", %d sessions", len(n.sessions))
	for _, c := range n.m.table.sorted() {
		fmt.Fprintf(&b, "\n    %s: live %d, granted %d, waiting %d", c.name, c.live, c.granted, len(c.waiters))
		for text, is := range map[string]bool{
			", over limit": c.overLimit, ", contended": c.contended, ", in flight": c.inFlight, ", outcome unknown": c.outcomeUnknown,
		} {
			if is {
				b.WriteString(text)
			}
		}
		if c.lease != n.m.leases.current {
			fmt.Fprintf(&b, ", on a lease until %v", c.lease.deadline)
		}
	}
	return b.String()
}

// String names the phase.
func (p phase) String() string {
	return [...]string{"detached", "claiming", "live", "mismatched", "expiring", "leaving", "left"}[p]
}

// String describes the content of a request.
func (r *Request) String() string {
	switch r.Op {
	case Join:
		j := r.Join
		text := fmt.Sprintf("join stream %d, last %q, candidate %s", j.Stream, j.Last, j.Candidate)
		if j.MustNotCreate {
			text += ", must not create"
		}
		return text + claims(j.More) + entries(j.Entries)
	case Batch:
		text := fmt.Sprintf("batch %s after %s", r.Batch.New, r.Batch.Prev)
		if r.Batch.Space != "" {
			text += ", space " + r.Batch.Space
		}
		return text + claims(r.Batch.More) + entries(r.Batch.Entries)
	case Expire:
		return fmt.Sprintf("expire %s at %s", r.Expire.Target, r.Expire.Token)
	case EndRecovery:
		return fmt.Sprintf("end recovery: ready %v, tombstones to drop %v", r.EndRecovery.Ready, r.EndRecovery.Gone)
	}
	return string(r.Op)
}

func claims(more bool) string {
	if more {
		return ", more claims follow"
	}
	return ""
}

func entries(list []store.Entry) string {
	var b strings.Builder
	for _, e := range list {
		fmt.Fprintf(&b, "; %s live %d need %d", e.Counter, e.Live, e.Need)
	}
	return b.String()
}

// describe returns the outcome of a request as text.
func (o *Outcome) describe(r *Request) string {
	if o.Err != nil {
		return o.Err.Error()
	}
	switch r.Op {
	case Join:
		j := o.Join
		switch j.Status {
		case store.Mismatch:
			return "mismatch, in force are " + j.Settings.String()
		case store.NoData:
			return "no data"
		case store.Expiring:
			return "expiring at " + j.Token.String()
		}
		text := "epoch " + j.Epoch
		if j.Kept {
			text += ", counts kept"
		}
		return text + recovering(j.Recovering) + counts(r.Join.Entries, j.Counts)
	case Batch:
		return "ok" + recovering(o.Batch.Recovering) + counts(r.Batch.Entries, o.Batch.Counts)
	case Observe:
		text := "epoch " + o.Members.Epoch + recovering(o.Members.Recovering)
		for _, m := range o.Members.Members {
			text += fmt.Sprintf("; %s %s %s", m.Replica, m.Token, m.State)
		}
		return text
	case Expire:
		return [...]string{"gone", "more", "alive"}[o.Expire]
	case EndRecovery:
		return "ok" + recovering(o.Recovering)
	}
	return "ok"
}

func recovering(is bool) string {
	if is {
		return ", recovering"
	}
	return ""
}

func counts(list []store.Entry, answers []store.Count) string {
	var b strings.Builder
	for i, e := range list {
		k := answers[i]
		fmt.Fprintf(&b, "; %s granted %d total %d", e.Counter, k.Granted, k.Total)
		if e.Max != limit.None {
			fmt.Fprintf(&b, " of %d", e.Max)
		}
		if store.RuleOf(e.Counter) != "" {
			fmt.Fprintf(&b, ", rule %d", k.RuleTotal)
		}
		if e.Throttled() {
			fmt.Fprintf(&b, ", admitted %d", k.Admitted)
		}
		if k.Contended {
			b.WriteString(", contended")
		}
	}
	return b.String()
}

var errTimeout = errors.New("no answer within the time limit")
