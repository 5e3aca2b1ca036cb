// Package limit has the values by which the rule language, the limiter and the stores
// describe limits. It imports no package of Usher, so that all of them can use it.
package limit

import (
	"fmt"
	"time"
)

// None stands for a maximum where there is none: any number of sessions. A
// maximum of 0 is one: it admits nobody.
const None int64 = -1

// Rate allows N sessions to begin in a window of length Per (Dante's
// session.throttle). The window is fixed: the first session opens it, N may
// begin in it, and the first session after its end opens the next one. A
// refused session uses up nothing, and a session that ends gives nothing back.
// The zero Rate is no limit.
type Rate struct {
	N   int64
	Per time.Duration // whole seconds in rules, whole milliseconds in stores
}

// String returns sessions/seconds, as session.throttle is written in rules.
func (r Rate) String() string { return fmt.Sprintf("%d/%d", r.N, r.Per/time.Second) }
