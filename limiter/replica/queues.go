package replica

import (
	"slices"
	"time"
)

// queue names the list in which a counter waits to be sent.
type queue uint8

const (
	noQueue queue = iota
	sendQueue
	heartbeatQueue
	releaseQueue
)

// queues are the counters that wait to be sent, each in at most one of them. A
// counter that is moved or dropped keeps its entry in the list; its queue says
// that the entry no longer counts.
type queues struct {
	send      []*counter // for the next batch, oldest first
	heartbeat []*counter // for the next heartbeat
	release   []*counter // of sessions that ended, for a batch at releaseAt
	releaseAt time.Duration
}

// releaseDelay is how long a replica may keep the slot of a session that ended, if no
// other replica waits for it. The next session here then takes it without a request,
// and many sessions that end together cost one batch.
const releaseDelay = 2 * time.Millisecond

// enqueue puts c into the next batch.
func (q *queues) enqueue(c *counter) {
	if c.queue != sendQueue {
		q.send = push(q.send, c, sendQueue)
	}
}

// enqueueForHeartbeat puts c into the next heartbeat, unless it is sent earlier.
func (q *queues) enqueueForHeartbeat(c *counter) {
	if c.queue == noQueue {
		q.heartbeat = push(q.heartbeat, c, heartbeatQueue)
	}
}

// enqueueForRelease puts c into a batch after releaseDelay.
func (q *queues) enqueueForRelease(now time.Duration, c *counter) {
	if c.queue == releaseQueue {
		return
	}
	if len(q.release) == 0 {
		q.releaseAt = now + releaseDelay
	}
	q.release = push(q.release, c, releaseQueue)
}

func (q *queues) releaseDue(now time.Duration) bool { return len(q.release) > 0 && now >= q.releaseAt }

// sendHeartbeats moves the heartbeat's counters into the next batch.
func (q *queues) sendHeartbeats() { q.heartbeat = q.intoSendQueue(q.heartbeat, heartbeatQueue) }

// sendReleases moves the released counters into the next batch.
func (q *queues) sendReleases() { q.release = q.intoSendQueue(q.release, releaseQueue) }

func (q *queues) intoSendQueue(list []*counter, from queue) []*counter {
	for _, c := range list {
		if c.queue == from { // else it was sent, moved or dropped meanwhile
			q.enqueue(c)
		}
	}
	return list[:0]
}

// take returns at most n counters for a batch, the oldest first. When they are in the
// batch, taken must be called.
func (q *queues) take(n int) []*counter {
	q.send = stillQueued(q.send, sendQueue)
	next := q.send[:min(len(q.send), n)]
	for _, c := range next {
		c.queue = noQueue
	}
	return next
}

// taken removes the first n counters, which take returned.
func (q *queues) taken(n int) { q.send = append(q.send[:0], q.send[n:]...) }

// putBack puts counters that take returned, and that were not stated, in front again.
func (q *queues) putBack(list []*counter) {
	for _, c := range list {
		c.queue = sendQueue
	}
	q.send = slices.Insert(q.send, 0, list...)
}

// push puts c at the end of list. Before the list grows, push removes entries that no
// longer count, and then doubles the room. So the list is never more than twice as long
// as necessary, however many clients come and go while nothing is sent.
func push(list []*counter, c *counter, at queue) []*counter {
	if len(list) == cap(list) {
		list = stillQueued(list, at)
		list = slices.Grow(list, len(list)+1)
	}
	c.queue = at
	return append(list, c)
}

// stillQueued returns list without the counters that were moved or dropped.
func stillQueued(list []*counter, at queue) []*counter {
	return slices.DeleteFunc(list, func(c *counter) bool { return c.queue != at })
}
