package udp

import "time"

// began is the zero time of clock.
var began = time.Now()

// clock returns a time that never steps back. It takes less memory than a time.Time. An
// association has one for each peer.
func clock() time.Duration { return time.Since(began) }
