package limiter

import (
	"testing"
	"time"

	"usher/store"
)

// TestDriverRests: a request of somebody else wakes the driver neither when it
// is found under way nor when it ends, unless something waits for its end.
func TestDriverRests(t *testing.T) {
	const now, beat = time.Second, 2 * time.Second
	for name, news := range map[string]func(*replica){
		"nothing":        func(*replica) {},
		"a change":       func(h *replica) { h.queue = []*counter{{}} },
		"a resend":       func(h *replica) { h.resend = &request{} },
		"a space":        func(h *replica) { h.space = "c1aaaa" },
		"a dead replica": func(h *replica) { h.observer.dead = []store.Expire{{}} },
		"ripe data":      func(h *replica) { h.observer.ripe = true },
		"a tombstone":    func(h *replica) { h.observer.gone = []string{"h1"} },
		"a lost lease":   func(h *replica) { h.phase = detached },
		"a broken link":  func(h *replica) { h.connected = false },
		"a pause is due": func(h *replica) { h.queue, h.notBefore = []*counter{{}}, now+time.Millisecond },
		"a dead rival": func(h *replica) {
			h.phase, h.retryAt, h.notBefore = mismatched, beat, now+time.Millisecond
			h.observer.dead = []store.Expire{{}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := newReplica("h", store.Settings{TTL: 10 * time.Second}, true, newID)
			h.connected, h.phase, h.beatAt, h.lookAt = true, live, beat, beat
			h.busy = true
			news(h)
			rests := h.restUntil(now)
			if rests <= now {
				t.Errorf("while a request is under way it looks again at %v, at once", rests)
			}
			if h.rouses(rests) {
				t.Error("it is roused while a request is under way")
			}
			h.busy = false
			prompt := h.rouses(rests) || rests == h.notBefore
			if want := name != "nothing"; prompt != want {
				t.Errorf("its end lets the driver send at once: %v, want %v", prompt, want)
			}
		})
	}
}
