package relay

import (
	"io"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"usher/deploy/need"
)

// Systems that refuse to splice choose their own error.
var refusals = map[string]syscall.Errno{
	"EPERM": unix.EPERM, "ENOSYS": unix.ENOSYS, "EOPNOTSUPP": unix.EOPNOTSUPP,
	"EINVAL": unix.EINVAL, "EACCES": unix.EACCES, "EUCLEAN": unix.EUCLEAN,
}

// A flow of many bytes is copied where the system refuses to splice.
func TestSpliceIsRefused(t *testing.T) {
	for name, errno := range refusals {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if !need.Alone(t) {
				return
			}
			need.Refuse(t, unix.SYS_SPLICE, errno)
			r := startFlow(t, new(Relay))
			// Few bytes in a read are not bulk: how many floods it takes until the
			// flow asks to splice is the system's affair.
			for floods := 0; floods < 3 || floods < 50 && !noSplice.Load(); floods++ {
				r.receive(r.flood())
			}
			r.mustHaveCopied()
		})
	}
}

// A flow is copied on when the system refuses to splice in the middle of it:
// what its pipe holds arrives, too.
func TestSpliceIsRefusedHalfway(t *testing.T) {
	for name, errno := range refusals {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if !need.Alone(t) {
				return
			}
			r := startFlow(t, new(Relay))
			sent := r.spliced()
			need.Refuse(t, unix.SYS_SPLICE, errno)
			r.receive(sent)
			r.receive(r.flood())
			r.mustHaveCopied()
		})
	}
}

// mustHaveCopied ends a flow that was refused to splice. The process remembers
// the refusal, so nothing is spliced and no pipe is left.
func (r *running) mustHaveCopied() {
	r.t.Helper()
	if !noSplice.Load() {
		r.t.Error("the refusal is not remembered")
	}
	if n := pipes(r.t); n != r.pipes {
		r.t.Errorf("%d ends of pipes are open, want %d", n, r.pipes)
	}
	if err := r.src.CloseWrite(); err != nil {
		r.t.Fatal(err)
	}
	if b, err := io.ReadAll(r.dst); len(b) > 0 || err != nil {
		r.t.Errorf("%d bytes, %v; want the end", len(b), err)
	}
	if err := <-r.ended; err != nil {
		r.t.Error(err)
	}
	if n := r.flow.bytes.Load(); n != r.received {
		r.t.Errorf("%d bytes counted, want %d", n, r.received)
	}
}
