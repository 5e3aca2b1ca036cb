// Package limit has the values by which the rule language, the limiter and the stores
// describe limits. It imports no package of Usher, so that all of them can use it.
package limit

import (
	"fmt"
	"time"
)

// None means that there is no maximum. A maximum of 0 admits nobody.
const None int64 = -1

// Rate allows N sessions to begin in a window of length Per (Dante's session.throttle).
// The window is fixed: the first session opens it, N may begin in it, and the first
// session after its end opens the next one. A refused session does not count. A session
// that ends still counts. The zero Rate is no limit.
type Rate struct {
	N   int64
	Per time.Duration // whole seconds in rules, whole milliseconds in stores
}

// String returns sessions/seconds, the form of session.throttle in rules.
func (r Rate) String() string { return fmt.Sprintf("%d/%d", r.N, r.Per/time.Second) }
