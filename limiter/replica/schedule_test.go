package replica

import (
	"testing"
	"time"

	"usher/store"
)

// newID makes names of epochs for machines without a store.
func newID() string { return "b" }

func newMachine(strict bool) *Machine {
	return New("h", store.Settings{TTL: 10 * time.Second, Strict: strict}, true, newID)
}

// TestDriverSleeps: a request that somebody else sent does not wake the driver, neither
// when the driver finds it in flight nor when it ends, unless something waits for its
// end.
func TestDriverSleeps(t *testing.T) {
	const now, beat = time.Second, 2 * time.Second
	for name, news := range map[string]func(*Machine){
		"nothing":        func(*Machine) {},
		"a change":       func(m *Machine) { m.queues.send = []*counter{{}} },
		"a resend":       func(m *Machine) { m.stream.resend = &Request{} },
		"a space":        func(m *Machine) { m.space.current = "c1aaaa" },
		"a dead replica": func(m *Machine) { m.others.observer.dead = []store.Expire{{}} },
		"a recovery that may end": func(m *Machine) {
			m.others.observer.ready = true
		},
		"a tombstone":    func(m *Machine) { m.others.observer.gone = []string{"h1"} },
		"a lost lease":   func(m *Machine) { m.phase = detached },
		"a broken link":  func(m *Machine) { m.link.connected = false },
		"a pause is due": func(m *Machine) { m.queues.send, m.link.notBefore = []*counter{{}}, now+time.Millisecond },
		"a dead conflicting replica": func(m *Machine) {
			m.phase, m.others.retryAt, m.link.notBefore = mismatched, beat, now+time.Millisecond
			m.others.observer.dead = []store.Expire{{}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(false)
			m.link.connected, m.phase, m.stream.beatAt, m.others.lookAt = true, live, beat, beat
			m.link.busy = true
			news(m)
			until := m.SleepUntil(now)
			if until <= now {
				t.Errorf("while a request is under way it looks again at %v, at once", until)
			}
			if m.NeedsWake(until) {
				t.Error("it is woken while a request is under way")
			}
			m.link.busy = false
			prompt := m.NeedsWake(until) || until == m.link.notBefore
			if want := name != "nothing"; prompt != want {
				t.Errorf("the end of the request lets the driver send at once: %v, want %v", prompt, want)
			}
		})
	}
}
