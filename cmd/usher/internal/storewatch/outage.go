package storewatch

import (
	"strings"
	"time"
	"unicode"
)

// outage is a period in which requests to the store fail. The zero outage is none.
type outage struct {
	since, last time.Time // the first failure, and the last
	op, err     string    // of the last

	logged     time.Time // when it was logged last
	loggedKind string    // the kind of failure in that line
}

// The first failure is often not the lasting cause: a server may go down, come
// back and then demand a password. So a failure of another kind is logged too,
// but not at every change when two kinds alternate.
const (
	logChange = 10 * time.Second
	logAgain  = time.Minute
)

// failed records a failure and reports whether to log it.
func (o *outage) failed(now time.Time, op, err string) (log bool) {
	if !o.lasts() {
		o.since = now
	}
	o.last, o.op, o.err = now, op, err
	kind, silent := kindOfFailure(op, err), now.Sub(o.logged)
	log = o.logged.IsZero() || silent >= logAgain || kind != o.loggedKind && silent >= logChange
	if log {
		o.logged, o.loggedKind = now, kind
	}
	return log
}

func (o *outage) lasts() bool { return !o.since.IsZero() }

// lasted returns how long the outage has lasted, for the log; "" at its first
// failure.
func (o *outage) lasted() string {
	if o.last.Equal(o.since) {
		return ""
	}
	return o.last.Sub(o.since).Round(time.Second).String()
}

// kindOfFailure returns the failure without its digits, because each connection
// has another port number.
func kindOfFailure(op, err string) string {
	return op + " " + strings.Map(func(r rune) rune {
		if unicode.IsDigit(r) {
			return -1
		}
		return r
	}, err)
}
