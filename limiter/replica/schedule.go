package replica

import "time"

// When the driver has something to do, and how long it may sleep.

// wakeAt returns when Next will have something to send, if there is no event until
// then, apart from the end of the request under way. A time that has passed means
// that Next waits for nothing else than that end.
func (m *Machine) wakeAt() time.Duration {
	at := m.link.notBefore
	o := &m.others
	switch {
	case !m.link.connected:
	case m.phase == mismatched && !o.observer.hasDead():
		at = max(at, min(o.retryAt, o.lookAt))
	case m.phase == live && !m.hasNews():
		next := o.lookAt
		if m.leased {
			next = min(next, m.stream.beatAt)
		}
		if len(m.queues.release) > 0 {
			next = min(next, m.queues.releaseAt)
		}
		at = max(at, next)
	}
	return at
}

// hasNews reports whether something must be sent to the store at once.
func (m *Machine) hasNews() bool {
	return len(m.queues.send) > 0 ||
		m.stream.resend != nil || //mutate:a-resend-awaits-a-heartbeat
		m.space.current != m.space.acked || //mutate:a-space-that-had-to-wait-awaits-a-heartbeat
		m.others.untidy()
}

// SleepUntil returns how long the driver may sleep unless somebody wakes it. The
// goroutine that ends a request wakes the driver if something waited for that, see
// NeedsWake.
func (m *Machine) SleepUntil(now time.Duration) time.Duration {
	at := m.wakeAt()
	if m.link.busy && at <= now { //mutate:what-must-wait-keeps-the-driver-awake
		at = now + 2*m.timing.request
	}
	return at
}

// NeedsWake reports whether a driver that sleeps until then must wake up earlier. While
// a request is under way it need not, because the goroutine that ends the request asks
// again.
func (m *Machine) NeedsWake(sleepUntil time.Duration) bool {
	return !m.link.busy && m.wakeAt() < sleepUntil //mutate:nobody-sends-what-had-to-wait
}

// BatchNext reports whether Next would return a batch with changes.
func (m *Machine) BatchNext(now time.Duration) bool {
	return !m.link.busy && m.link.connected && m.phase == live && len(m.queues.send) > 0 && m.stream.resend == nil &&
		now >= m.link.notBefore && now < m.others.lookAt && (m.others.tidied || !m.others.untidy())
}
