package relay

import (
	"errors"
	"io"
	"sync"
	"syscall"
)

// bufferSize is the most that one read takes, in bytes. All relays share buffers. A
// relay that waits holds none.
const bufferSize = 64 << 10

var buffers = sync.Pool{New: func() any { return new([bufferSize]byte) }}

// reader reads from a socket. It takes a buffer only when there are bytes to read.
// Call init before use.
type reader struct {
	raw    syscall.RawConn
	try    func(fd uintptr) (done bool) // attempt, made once and not for every read
	buffer *[bufferSize]byte            // nil but while its bytes wait to be returned
	n      int
	err    error
}

// give makes the next wait return b, without a read. b has bufferSize bytes at most.
func (r *reader) give(b []byte) {
	r.buffer = buffers.Get().(*[bufferSize]byte)
	r.n = copy(r.buffer[:], b)
}

func (r *reader) init(raw syscall.RawConn) { r.raw, r.try = raw, r.attempt }

// wait waits for bytes. If n is not 0, the caller must put the buffer back. If n is
// 0 and err is nil, the peer has ended its direction.
func (r *reader) wait() (buffer *[bufferSize]byte, n int, err error) {
	if r.buffer == nil { // else it has what give got
		if err := r.raw.Read(r.try); err != nil {
			return nil, 0, err
		}
	}
	buffer, r.buffer = r.buffer, nil
	return buffer, r.n, r.err
}

// attempt reads once, and reports false if there is nothing yet.
func (r *reader) attempt(fd uintptr) (done bool) {
	r.buffer = buffers.Get().(*[bufferSize]byte)
	r.n, r.err = retry(func() (int, error) { return syscall.Read(int(fd), r.buffer[:]) })
	if r.n > 0 {
		return true
	}
	buffers.Put(r.buffer)
	r.buffer = nil
	return !errors.Is(r.err, syscall.EAGAIN)
}

// writer writes to a socket. Before every system call it asks whether it still may.
// Write of package net would continue with the rest of a buffer after any pause,
// without asking. Call init before use.
type writer struct {
	raw   syscall.RawConn
	try   func(fd uintptr) (done bool)
	valid func() bool // nil: always
	wrote func(n int) // nil, or told of every write
	stuck func()      // nil, or called when the socket takes no more for now
	rest  []byte
	err   error
}

func (w *writer) init(raw syscall.RawConn, valid func() bool) {
	w.raw, w.valid, w.try = raw, valid, w.attempt
}

// write writes all of b. If it cannot, it returns how much it wrote, and the error.
func (w *writer) write(b []byte) (n int, err error) {
	w.rest, w.err = b, nil
	err = w.raw.Write(w.try)
	n = len(b) - len(w.rest)
	w.rest = nil
	return n, errors.Join(err, w.err)
}

// attempt writes until nothing is left, and reports false if the socket takes
// no more for now.
func (w *writer) attempt(fd uintptr) (done bool) {
	for len(w.rest) > 0 {
		if w.valid != nil && !w.valid() {
			w.err = ErrMayWrite
			return true
		}
		n, err := retry(func() (int, error) { return syscall.Write(int(fd), w.rest) })
		switch {
		case errors.Is(err, syscall.EAGAIN):
			if w.stuck != nil {
				w.stuck()
			}
			return false
		case err != nil:
			w.err = err
			return true
		case n == 0:
			w.err = io.ErrShortWrite
			return true
		}
		w.rest = w.rest[n:]
		if w.wrote != nil {
			w.wrote(n)
		}
	}
	return true
}

// retry repeats a call that a signal interrupted.
func retry(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if !errors.Is(err, syscall.EINTR) {
			return max(n, 0), err
		}
	}
}
