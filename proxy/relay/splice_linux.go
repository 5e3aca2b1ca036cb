package relay

import (
	"errors"
	"io"
	"os"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// pipeSize is the size of a pipe in bytes, and bounds what one call moves. If all
	// pipes of an unprivileged user have more than 64 MiB (fs.pipe-user-pages-soft),
	// the system makes new pipes too small. Further flows are copied.
	pipeSize = 1 << 20
	// After so many moves in a row of less than this, a flow is no longer bulk.
	smallMove  = bufferSize / 4
	smallMoves = 16
	// pipeIdle is how long a pipe waits for bytes at most before the flow gives it
	// up. It waits at least half as long.
	pipeIdle = time.Second
)

// bulk moves bytes through a pipe, without copying them into this process, while there
// are many of them. It returns nil when copying should go on, or the error, as copy
// does.
func (f *flow) bulk() error {
	if noSplice.Load() {
		return nil
	}
	if pipes := f.relay.pipes; pipes != nil {
		select {
		case pipes <- struct{}{}:
			defer func() { <-pipes }()
		default:
			return nil
		}
	}
	p, err := newPipe(f)
	if err != nil {
		return nil
	}
	defer p.close()
	defer f.from.SetReadDeadline(time.Time{}) //nolint:errcheck // it fails on a closed connection only
	for small := 0; small < smallMoves; small++ {
		n, err := p.fill(f.reader.raw)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded), refused(err): // silent, or not to be spliced
			return nil
		case err != nil:
			return f.readBroke(err)
		case n == 0: // the end, or urgent data, at which splice stops: a read tells
			return nil
		case n >= smallMove:
			small = 0
		}
		if err = p.drain(f.writer.raw); refused(err) {
			err = p.copyOut(&f.writer)
		}
		f.watch.end()
		switch {
		case errors.Is(err, ErrMayWrite):
			return err
		case err != nil:
			return f.writeBroke(err)
		}
	}
	return nil
}

// noSplice says that the system has refused to splice. From then on, flows are copied,
// because another try would cost each of them a pipe.
var noSplice atomic.Bool

// connectionErrors are the errors of splice that mean a broken TCP connection.
var connectionErrors = []error{
	syscall.ECONNRESET, syscall.EPIPE, syscall.ETIMEDOUT, syscall.ECONNABORTED, syscall.ENOTCONN,
	syscall.ECONNREFUSED, syscall.EHOSTUNREACH, syscall.EHOSTDOWN, syscall.ENETUNREACH, syscall.ENETDOWN,
	syscall.EPROTO, syscall.ENOPROTOOPT,
}

// refused reports whether err means that the system does not splice: seccomp filters,
// gVisor and emulators refuse it, some of them only after the process has begun to
// splice. They return different errors, so every error counts that does not come from
// the connection. A shortage of memory passes, so it is not remembered.
func refused(err error) bool {
	var number syscall.Errno
	if !errors.As(err, &number) || slices.Contains(connectionErrors, error(number)) {
		return false
	}
	if number != syscall.ENOMEM && number != syscall.ENOBUFS {
		noSplice.Store(true)
	}
	return true
}

// pipe is what spliced bytes pass through. It is empty between moves.
type pipe struct {
	flow *flow
	r, w int // its ends

	tryFill, tryDrain func(fd uintptr) (done bool) // made once and not for every move
	waits             time.Time                    // when its deadline was set
	n                 int                          // bytes in it
	err               error
}

func newPipe(f *flow) (*pipe, error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return nil, err
	}
	p := &pipe{flow: f, r: fds[0], w: fds[1]}
	p.tryFill, p.tryDrain = p.fillOnce, p.drainOnce
	// If this is refused, the pipe keeps its size, which is read next.
	_, _ = unix.FcntlInt(uintptr(p.w), unix.F_SETPIPE_SZ, pipeSize)
	size, err := unix.FcntlInt(uintptr(p.w), unix.F_GETPIPE_SZ, 0)
	if err == nil && size < bufferSize {
		err = unix.ENOBUFS
	}
	if err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

func (p *pipe) close() {
	_ = unix.Close(p.r)
	_ = unix.Close(p.w)
}

// fill waits for bytes and moves them into the pipe. n is 0 if splice can go no
// further. It fails with os.ErrDeadlineExceeded if nothing comes for a while.
func (p *pipe) fill(from syscall.RawConn) (n int, err error) {
	if now := time.Now(); now.Sub(p.waits) > pipeIdle/2 { // not each time: setting it costs more than reading the clock
		p.waits = now
		_ = p.flow.from.SetReadDeadline(now.Add(pipeIdle)) // fails if it is closed, as the read does
	}
	if err := from.Read(p.tryFill); err != nil {
		return 0, err
	}
	return p.n, p.err
}

func (p *pipe) fillOnce(fd uintptr) (done bool) {
	p.n, p.err = splice(int(fd), p.w, pipeSize)
	return !errors.Is(p.err, syscall.EAGAIN)
}

// drain writes what is in the pipe. Before every system call, it asks whether it still
// may.
func (p *pipe) drain(to syscall.RawConn) error {
	if err := to.Write(p.tryDrain); err != nil {
		return err
	}
	return p.err
}

func (p *pipe) drainOnce(fd uintptr) (done bool) {
	for p.n > 0 {
		if mayWrite := p.flow.relay.mayWrite; mayWrite != nil && !mayWrite() {
			p.err = ErrMayWrite
			return true
		}
		moved, err := splice(p.r, int(fd), p.n)
		switch {
		case errors.Is(err, syscall.EAGAIN):
			p.flow.stuck()
			p.waits = time.Time{}
			return false
		case err != nil:
			p.err = err
			return true
		case moved == 0:
			p.err = io.ErrShortWrite
			return true
		}
		p.n -= moved
		p.flow.count(moved)
	}
	return true
}

// copyOut writes what is in the pipe without splice.
func (p *pipe) copyOut(w *writer) error {
	buffer := buffers.Get().(*[bufferSize]byte)
	defer buffers.Put(buffer)
	for p.n > 0 {
		n, err := retry(func() (int, error) { return unix.Read(p.r, buffer[:min(p.n, bufferSize)]) })
		switch {
		case err != nil:
			return err
		case n == 0: // impossible: we hold the other end
			return io.ErrUnexpectedEOF
		}
		if _, err := w.write(buffer[:n]); err != nil {
			return err
		}
		p.n -= n
	}
	return nil
}

func splice(from, to, n int) (int, error) {
	return retry(func() (int, error) {
		moved, err := unix.Splice(from, nil, to, nil, n, unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
		return int(moved), err
	})
}
