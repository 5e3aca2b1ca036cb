package replica

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"usher/store/storetest"
)

// storm starts the faults.
func (w *world) storm() {
	w.calm = false
	w.happens("the faults begin", nil)
	m := w.mix
	w.fault(m.pause, w.pause)
	w.fault(m.crash, w.crash)
	w.fault(m.partition, w.partition)
	w.fault(m.blackout, w.blackout)
	w.fault(m.flush, w.flush)
	w.fault(m.drop, w.drop)
	w.fault(m.stop, w.stop)
	w.fault(m.space, w.space)
	w.fault(m.restart, func() {
		w.restart(storetest.Snapshot{})
		w.dataLost()
		w.rates.forget()
	})
	w.fault(m.failBack, w.failBack)
	w.fault(m.goBack, func() {
		w.restart(w.saved)
		w.rates.goBack()
	})
}

// fault does something at random moments, until the world is calm.
func (w *world) fault(perSecond float64, do func()) {
	if perSecond == 0 || w.calm {
		return
	}
	pause := time.Duration(w.random.ExpFloat64() / perSecond * float64(time.Second))
	w.after(pause, func() {
		if !w.calm {
			do()
			w.fault(perSecond, do)
		}
	})
}

func (w *world) anyone() *node { return w.nodes[w.random.IntN(len(w.nodes))] }

func (w *world) pause() {
	n := w.anyone()
	n.paused = w.now + w.outage(4*simTTL)
	n.does("is paused until", n.paused)
	w.after(n.paused-w.now, n.wake)
}

// outage is how long a node is away. Often this is about as long as the others take to
// expire it, because races are likely then.
func (w *world) outage(most time.Duration) time.Duration {
	if w.chance(0.5) {
		return simTTL*6/10 + w.upTo(simTTL/2)
	}
	return w.upTo(most)
}

// partition cuts some nodes off. If the mix also loses data, the store often loses it
// just when one of them comes back. That node is then the first to join.
func (w *world) partition() {
	for _, n := range w.nodes {
		if w.chance(0.5) {
			n.cut = w.now + w.outage(3*simTTL)
			n.does("is cut off until", n.cut)
			if w.chance(5 * w.mix.flush) {
				w.after(n.cut-w.now+w.upTo(simTTL*3/10), w.flush)
			}
		}
	}
}

// blackout cuts all nodes off for the same time. It must not cause excess sessions, not
// even in mode keep, where sessions continue.
func (w *world) blackout() {
	if w.chance(5 * w.mix.flush) {
		w.flush() // some are back on the new data when it begins
	}
	w.after(w.upTo(simTTL/5), func() {
		until := w.now + w.outage(2*simTTL)
		if until-w.now > simTTL*3/10 { // else nobody misses a look, and a replica that is away for longer is away alone
			w.dark = max(w.dark, until)
		}
		w.happens("everybody is cut off until", until)
		for _, n := range w.nodes {
			n.cut = until
		}
	})
}

func (w *world) flush() {
	if !w.calm {
		w.happens("the store loses its data", nil)
		w.data.Flush()
		w.rates.forget()
		w.corrupt = true
		w.dataLost()
	}
}

// dataLost: a late copy of a join may now create the same epoch again, and copies of
// later batches then take effect once more, without the data of before. What a replica
// witnessed before the loss must not count for the new data, see mayLook.
func (w *world) dataLost() { clear(w.applied) }

func (w *world) crash() {
	w.kill(w.random.IntN(len(w.nodes)))
}

func (w *world) kill(i int) {
	w.nodes[i].does("crashes", nil)
	w.nodes[i].dead = true
	w.nodes[i] = w.newNode()
}

// stop ends a replica normally: its sessions end, and then it leaves.
func (w *world) stop() {
	i := w.random.IntN(len(w.nodes))
	n := w.nodes[i]
	if w.now < n.paused {
		return
	}
	w.nodes[i] = w.newNode()
	w.stopped = append(w.stopped, n)
	n.stopping = true
	n.does("is stopped", nil)
	for _, s := range n.sessions {
		n.m.Release(n.clock(), s.slot)
	}
	n.m.Leave()
	n.wake()
}

// space gives a replica new rules.
func (w *world) space() {
	n := w.anyone()
	n.m.SetSpace(fmt.Sprint("c1space", w.random.IntN(3)), nil)
	n.does("has another space:", n.m.space.current)
	n.wake()
}

func (w *world) drop() {
	keys := []string{"m", "t"}
	for _, n := range w.nodes {
		keys = append(keys, "r:"+n.m.id)
	}
	key := keys[w.random.IntN(len(keys))]
	w.happens("the store loses the key", key)
	w.data.Drop(key)
	w.corrupt = true
}

func (w *world) restart(from storetest.Snapshot) {
	w.happens("the store restarts", nil)
	w.data.Restart(from)
	for _, n := range slices.Concat(w.nodes, w.stopped) {
		n.severed = true
	}
	w.corrupt = true
}

// failBack: the server follows a lagging replica of its own, and is promoted again at
// once. No connection breaks, and what the server acknowledged meanwhile is lost.
func (w *world) failBack() {
	lagging, windows := w.data.Snapshot(), maps.Clone(w.rates.windows)
	w.after(w.upTo(simTTL/5), func() {
		if !w.calm {
			w.happens("the store goes back without a broken connection", nil)
			w.data.Restart(lagging)
			w.rates.windows = windows
			w.corrupt = true
		}
	})
}
