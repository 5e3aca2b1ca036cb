package proxy

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"syscall"
	"time"
)

// relay returns the two directions between client and target, which end when
// no byte has moved for idle; 0 is never.
func (s *session) relay(target *net.TCPConn, idle time.Duration) []task {
	up := flow{session: s, from: s.client, to: target, readError: errClientSide, writeError: errTargetSide, bytes: &s.up}
	down := flow{session: s, from: target, to: s.client, readError: errTargetSide, writeError: errClientSide, bytes: &s.down}
	up.back, down.back = &down, &up
	up.watched = true
	s.endWhenIdle(idle)
	return []task{up.run, down.run}
}

// bulkAfter is how many full buffers in a row make a flow bulk.
const bulkAfter = 4

// flow is one direction of a session.
type flow struct {
	session               *session
	from, to              *net.TCPConn
	readError, writeError error
	bytes                 *atomic.Int64
	back                  *flow       // the other direction
	ended                 atomic.Bool // its end was passed on
	watched               bool        // where it reads from is watched while it cannot write
	watch                 sourceWatch
}

// run moves bytes until the direction's end, which is passed on as the end of
// that direction alone. A reset is passed on as a reset.
func (f *flow) run() error {
	from, err := f.from.SyscallConn()
	if err != nil {
		return f.readBroke(err)
	}
	to, err := f.to.SyscallConn()
	if err != nil {
		return f.writeBroke(err)
	}
	r, w := newReader(from), newWriter(to, f.session.valid)
	w.wrote = f.count
	if f.watched {
		f.watch = sourceWatch{flow: f, raw: from}
		w.stuck = f.watch.begin
	}
	for err == nil {
		if err = f.copy(r, w); err == nil {
			err = f.bulk(r, w)
		}
	}
	if !errors.Is(err, io.EOF) {
		return err
	}
	broken, err := isBroken(from)
	switch {
	case err != nil: // we are closing both sides
		return nil
	case broken && !f.back.ended.Load():
		// The system tells of a reset once, and a write of the other direction
		// was told.
		return f.readBroke(syscall.ECONNRESET)
	}
	f.ended.Store(true) // before it is: afterwards, both directions may look broken off
	// An error here says that the peer has reset, which the other direction meets.
	_ = f.to.CloseWrite()
	return f.awaitBreak(from)
}

// awaitBreak waits for the end of the other direction, too: until then the peer
// that has ended this one may reset its connection, or vanish, and while the
// other side is silent nobody else would notice.
func (f *flow) awaitBreak(from syscall.RawConn) error {
	if f.back.ended.Load() {
		return nil
	}
	if err := waitBroken(from, func() bool { return true }); err != nil || f.back.ended.Load() {
		return nil // we are closing both sides, or have ended both directions
	}
	return f.readBroke(syscall.ECONNRESET)
}

// copy copies until the flow is bulk. It holds a buffer only while there is
// something in it. At the direction's end it returns io.EOF.
func (f *flow) copy(r *reader, w *writer) error {
	for full := 0; full < bulkAfter; {
		buffer, n, err := r.wait()
		if n == 0 {
			if err == nil {
				return io.EOF
			}
			return f.readBroke(err)
		}
		if full++; n < bufferSize {
			full = 0
		}
		_, err = w.write(buffer[:n])
		f.watch.end()
		buffers.Put(buffer)
		switch {
		case errors.Is(err, errLeaseLost):
			return err
		case err != nil:
			return f.writeBroke(err)
		}
	}
	return nil
}

// count says that n bytes have arrived.
func (f *flow) count(n int) {
	f.bytes.Add(int64(n))
	f.session.touch()
}

// readBroke passes on as a reset what broke one side: it must not look like an
// end to the other.
func (f *flow) readBroke(err error) error {
	reset(f.to, err)
	return fmt.Errorf("%w: %w", f.readError, err)
}

// writeBroke is readBroke for the other side.
func (f *flow) writeBroke(err error) error {
	reset(f.from, err)
	return fmt.Errorf("%w: %w", f.writeError, err)
}

// reset makes the close of c a reset, unless we have closed already, which is
// what err then says.
func reset(c *net.TCPConn, err error) {
	if !errors.Is(err, net.ErrClosed) {
		_ = c.SetLinger(0) // fails if c was closed meanwhile
	}
}

// endWhenIdle ends the session when no byte has moved for limit; 0 is never.
// Every byte leaves its time, the timer is only set when it goes off: what is
// busy pays one clock read for a write.
func (s *session) endWhenIdle(limit time.Duration) {
	if limit == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	s.idleLimit = limit
	s.touch()
	s.idleTimer = time.AfterFunc(limit, s.checkIdle)
}

// touch says that a byte has moved.
func (s *session) touch() {
	if s.idleLimit > 0 {
		s.moved.Store(int64(time.Since(s.began)))
	}
}

func (s *session) checkIdle() {
	s.mu.Lock()
	defer s.mu.Unlock()
	idle := time.Since(s.began) - time.Duration(s.moved.Load())
	switch {
	case s.closed:
	case idle >= s.idleLimit:
		s.end(errIdle)
	default:
		s.idleTimer.Reset(s.idleLimit - idle)
	}
}
