// Package relay moves bytes between two TCP connections until both directions
// have ended. It knows no session: it gets two connections, an idle timeout, a
// function that says whether it may still write, and counters, and returns an
// error.
//
// A direction takes a shared buffer only while it copies, so an idle relay holds none.
// After four full buffers in a row, it splices as long as data keeps coming.
package relay

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"usher/proxy/idle"
	"usher/proxy/sockopt"
)

// Why a relay ends before both directions have ended.
var (
	ErrClient   = errors.New("the connection to the client broke")
	ErrTarget   = errors.New("the connection to the target broke")
	ErrIdle     = errors.New("idle timeout (timeout.io)")
	ErrFinWait  = errors.New("idle timeout of a half-closed connection (timeout.tcp_fin_wait)")
	ErrMayWrite = errors.New("the session may no longer write")
)

// Options configure a Relay.
type Options struct {
	Idle     time.Duration // ends the relay when no byte has moved for this time; 0: never
	FinWait  time.Duration // the same after one direction has ended, if it is shorter than Idle; 0: only Idle applies
	MayWrite func() bool   // asked before every system call that writes; nil: always
	Early    []byte        // was read from the client already, and goes to the target first; at most 64 KiB, may be empty
	// Pipes bounds how many pipes the relays have at a time: it has a token for each.
	// If it is full, bulk data is copied. nil: any number.
	Pipes chan struct{}
	// Up and Down count the bytes that were written to the target and to the
	// client, while they move. Both are required.
	Up, Down *atomic.Int64
	// Moved is touched whenever a byte was written, and at the start. nil: nobody wants
	// to know.
	Moved *idle.Stamp
}

// Relay is two directions and what they share. There is one for each connected
// session, so it is kept small.
type Relay struct {
	up, down   flow
	mayWrite   func() bool // nil: always
	pipes      chan struct{}
	idle       idle.Timer
	finWait    time.Duration
	halfClosed atomic.Bool // finWait is in force
	downEnded  sync.WaitGroup

	failed sync.Once
	err    error // the first one; to be read when both directions have ended
}

// New returns a relay between client and target; call Run. New and Run are separate to
// keep the stack of Run small, because a goroutine keeps a stack that has grown. An
// idle relay fits into the smallest stack.
func New(client, target *net.TCPConn, o Options) *Relay {
	if o.Moved == nil {
		o.Moved = new(idle.Stamp)
	}
	r := &Relay{mayWrite: o.MayWrite, pipes: o.Pipes}
	r.up = flow{relay: r, from: client, to: target, bytes: o.Up}
	r.down = flow{relay: r, from: target, to: client, bytes: o.Down}
	if len(o.Early) > 0 {
		r.up.reader.give(o.Early)
	}
	r.finWait = o.FinWait
	r.idle.Start(o.Idle, o.Moved, r.expire)
	r.downEnded.Add(1)
	return r
}

// Run relays, and returns when both directions have ended. The end of one
// direction is passed on as the end of that direction alone, a reset as a reset.
// On an error both connections are closed. Otherwise they may be closed or not. It is
// called once.
//
// To end the relay from outside, close both connections; Run then returns an error
// about that. Nobody else may read, write or set deadlines meanwhile.
func (r *Relay) Run() error {
	go r.runDown()
	r.fail(r.up.run())
	r.downEnded.Wait()
	r.idle.Stop()
	return r.err
}

func (r *Relay) runDown() {
	defer r.downEnded.Done()
	r.fail(r.down.run())
}

// fail ends both directions, unless err is nil.
func (r *Relay) fail(err error) {
	if err == nil {
		return
	}
	r.failed.Do(func() {
		r.err = err
		for _, c := range []*net.TCPConn{r.up.from, r.up.to} {
			sockopt.ForgetMuch(c)
			_ = c.Close()
		}
	})
}

// expire ends both directions, because nothing has moved for too long.
func (r *Relay) expire() {
	if r.halfClosed.Load() {
		r.fail(ErrFinWait)
		return
	}
	r.fail(ErrIdle)
}

// bulkAfter is how many full buffers in a row make a flow bulk.
const bulkAfter = 4

// flow is one direction of a relay.
type flow struct {
	relay    *Relay
	from, to *net.TCPConn
	bytes    *atomic.Int64
	reader   reader       // of from
	writer   writer       // of to
	ended    atomic.Bool  // its end was passed on, or is about to be
	watch    *sourceWatch // of from; nil: it was not needed yet
}

// back returns the other direction.
func (f *flow) back() *flow {
	if f.isUp() {
		return &f.relay.down
	}
	return &f.relay.up
}

func (f *flow) isUp() bool { return f == &f.relay.up }

// run moves bytes until the direction's end. A reset is passed on as a reset.
func (f *flow) run() error {
	from, err := f.from.SyscallConn()
	if err != nil {
		return f.readBroke(err)
	}
	to, err := f.to.SyscallConn()
	if err != nil {
		return f.writeBroke(err)
	}
	f.reader.init(from)
	f.writer.init(to, f.relay.mayWrite)
	f.writer.wrote, f.writer.stuck = f.count, f.stuck
	for err == nil {
		if err = f.copy(); err == nil {
			err = f.bulk()
		}
	}
	if !errors.Is(err, io.EOF) {
		return err
	}
	return f.end(from)
}

// end passes the end of the direction on, and waits until the other direction has
// ended, too. Until then the peer that ended this direction may reset its connection or
// vanish. Nobody else would notice while the other side is silent.
func (f *flow) end(from syscall.RawConn) error {
	both := f.back().ended.Load
	err := waitBroken(from, both, func() bool { return true }, f.passOnEnd)
	if err == nil && !both() {
		// The system reports a reset once, perhaps to a write of the other direction.
		return f.readBroke(syscall.ECONNRESET)
	}
	if !f.ended.Swap(true) {
		// The other direction has ended, so a close passes the end on just as well. Both
		// end the wait of the other direction, too.
		if f.bytes.Load() > sockopt.Much && sockopt.Unsent(f.to) > sockopt.Much {
			_ = f.to.CloseWrite() // it is closed when most has been sent
		} else {
			_ = f.to.Close()
		}
	}
	return nil
}

// passOnEnd passes the end of the direction on as the end of that direction alone.
func (f *flow) passOnEnd() {
	if f.ended.Swap(true) { // first of all: when the end was passed on, the connection may look broken
		return
	}
	// An error means that the peer has reset; the other direction will see it.
	_ = f.to.CloseWrite()
	if !f.back().ended.Load() && f.relay.idle.Shorten(f.relay.finWait) {
		f.relay.halfClosed.Store(true)
	}
}

// copy copies until the flow is bulk. It holds a buffer only while there is
// something in it. At the direction's end it returns io.EOF.
func (f *flow) copy() error {
	for full := 0; full < bulkAfter; {
		buffer, n, err := f.reader.wait()
		if n == 0 {
			if err == nil {
				return io.EOF
			}
			return f.readBroke(err)
		}
		if full++; n < bufferSize {
			full = 0
		}
		// Not in a function of its own: the stack of an idle session is 2 KiB, and this is
		// its deepest point.
		_, err = f.writer.write(buffer[:n])
		f.watch.end()
		buffers.Put(buffer)
		switch {
		case errors.Is(err, ErrMayWrite):
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
	f.relay.idle.Touch()
}

// stuck watches the client while the target takes no more, see sourceWatch.
func (f *flow) stuck() {
	if !f.isUp() {
		return
	}
	if f.watch == nil {
		f.watch = &sourceWatch{flow: f}
	}
	f.watch.begin()
}

// readBroke resets the connection to which f writes, because reading failed. The other
// side must not take that for a normal end.
func (f *flow) readBroke(err error) error {
	reset(f.to, err)
	return fmt.Errorf("%w: %w", side(f.isUp()), err)
}

// writeBroke resets the connection from which f reads, because writing failed.
func (f *flow) writeBroke(err error) error {
	reset(f.from, err)
	return fmt.Errorf("%w: %w", side(!f.isUp()), err)
}

// side returns the error of one of the two connections.
func side(client bool) error {
	if client {
		return ErrClient
	}
	return ErrTarget
}

// reset makes the close of c a reset. It does nothing if err says that the relay itself
// has closed c.
func reset(c *net.TCPConn, err error) {
	if !errors.Is(err, net.ErrClosed) {
		_ = c.SetLinger(0) // fails if c was closed meanwhile
	}
}
