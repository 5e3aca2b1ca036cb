// Package lately counts the events of the last minute.
package lately

import (
	"sync"
	"time"
)

// start is the zero of the seconds in a Count.
var start = time.Now()

// slots is how many seconds a Count looks back.
const slots = 60

// Count is the number of events in the last minute, in steps of a second. The zero Count
// has none. It is safe for concurrent use.
type Count struct {
	mu   sync.Mutex
	of   [slots]uint32 // events by second, modulo slots
	last int64         // the newest of these seconds
}

// Add counts an event at now.
func (c *Count) Add(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.turn(now)
	c.of[c.last%slots]++
}

// N returns the number of events in the minute before now.
func (c *Count) N(now time.Time) (n uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.turn(now)
	for _, one := range c.of {
		n += uint64(one)
	}
	return n
}

// turn forgets the seconds that are more than a minute old. c.mu is held.
func (c *Count) turn(now time.Time) {
	second := int64(now.Sub(start) / time.Second)
	for i := max(c.last+1, second-slots+1); i <= second; i++ {
		c.of[i%slots] = 0
	}
	c.last = max(c.last, second)
}
