package udp

import "time"

// began is what clock counts from.
var began = time.Now()

// clock returns a time that only grows. It is smaller than a time.Time, of which
// an association would have one for each peer.
func clock() time.Duration { return time.Since(began) }
