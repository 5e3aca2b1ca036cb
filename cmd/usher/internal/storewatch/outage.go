package storewatch

import (
	"strings"
	"time"
	"unicode"
)

// outage is a time in which the store fails. The zero outage is none.
type outage struct {
	since, last time.Time // the first failure, and the last
	op, err     string    // of the last

	told     time.Time // when the log had its last line
	toldKind string    // and of what kind of failure
}

// What fails first is rarely the cause that lasts, as when a server that ended
// is back and wants a password: a failure of another kind has a line of its
// own, but not each time where kinds take turns.
const (
	tellChange = 10 * time.Second
	tellAgain  = time.Minute
)

// failed takes a failure and reports whether the log is to tell of it.
func (o *outage) failed(now time.Time, op, err string) (tell bool) {
	if !o.lasts() {
		o.since = now
	}
	o.last, o.op, o.err = now, op, err
	kind, silent := kindOfFailure(op, err), now.Sub(o.told)
	tell = o.told.IsZero() || silent >= tellAgain || kind != o.toldKind && silent >= tellChange
	if tell {
		o.told, o.toldKind = now, kind
	}
	return tell
}

func (o *outage) lasts() bool { return !o.since.IsZero() }

// lasted is how long it does, in a form for the log; "" at its first failure.
func (o *outage) lasted() string {
	if o.last.Equal(o.since) {
		return ""
	}
	return o.last.Sub(o.since).Round(time.Second).String()
}

// kindOfFailure is what is alike in failures that differ in their numbers
// alone: each connection has a port of its own.
func kindOfFailure(op, err string) string {
	return op + " " + strings.Map(func(r rune) rune {
		if unicode.IsDigit(r) {
			return -1
		}
		return r
	}, err)
}
