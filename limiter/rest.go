package limiter

import "time"

// When a driver of the replica has something to do, and when it may sleep.

// wakeAt returns when next has something to send if nothing happens until then
// but the end of what is under way: in the past if that is all it waits for.
func (h *replica) wakeAt() time.Duration {
	at := h.notBefore
	switch {
	case !h.connected:
	case h.phase == mismatched && !h.observer.hasDead():
		at = max(at, min(h.retryAt, h.lookAt))
	case h.phase == live && !h.hasNews():
		next := h.lookAt
		if h.leased {
			next = min(next, h.beatAt)
		}
		if len(h.lazy) > 0 {
			next = min(next, h.lazyAt)
		}
		at = max(at, next)
	}
	return at
}

// hasNews reports whether there is something to tell the store at once.
func (h *replica) hasNews() bool {
	return len(h.queue) > 0 || h.resend != nil || h.space != h.spaceKnown || h.untidy()
}

// restUntil returns how long the driver may sleep unless somebody rouses it.
// What awaits the end of a request is left to who ends it: wakeAt is then
// earlier than this.
func (h *replica) restUntil(now time.Duration) time.Duration {
	at := h.wakeAt()
	if h.busy && at <= now {
		at = now + 2*h.timing.request
	}
	return at
}

// rouses reports whether a driver that sleeps until then must not. While a
// request is under way it may: who ends that one asks again.
func (h *replica) rouses(rests time.Duration) bool { return !h.busy && h.wakeAt() < rests }

// batchNext reports whether what next returns would be a batch with changes.
func (h *replica) batchNext(now time.Duration) bool {
	return !h.busy && h.connected && h.phase == live && len(h.queue) > 0 && h.resend == nil &&
		now >= h.notBefore && now < h.lookAt && (h.tidied || !h.untidy())
}
