// Package agent answers the agent checks of HAProxy (agent-check in its configuration
// manual). It sends one line to each connection and closes it.
package agent

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"usher/proxy/admin"
	"usher/proxy/fair"
)

// patience bounds a connection, and maxChecks how many there are at a time: those that
// stay after their answer only hold descriptors.
const (
	patience  = time.Second
	maxChecks = 8
)

// Options configure a Server. Both functions are called for each check, one at a time for
// each listener, and should not block.
type Options struct {
	// Unready returns why balancers should send no clients here, "" if they should.
	Unready func() string
	// Weight returns the share of the capacity that is free, from 1 to 100 per cent.
	Weight func() int
}

// Server answers agent checks.
type Server struct {
	o       Options
	mu      sync.Mutex
	ln      net.Listener
	ended   bool
	closed  chan struct{}
	running sync.WaitGroup
}

// New returns a Server that does not listen yet.
func New(o Options) *Server { return &Server{o: o, closed: make(chan struct{})} }

// Serve answers checks on ln until Close, then returns nil. It is called once. If
// Close came first, it closes ln.
func (s *Server) Serve(ln net.Listener) error {
	s.mu.Lock()
	s.ln = ln
	ended := s.ended
	s.mu.Unlock()
	if ended {
		return ln.Close()
	}
	defer s.running.Wait()
	open := fair.Conns{Most: maxChecks}
	for {
		conn, err := ln.Accept()
		switch {
		case err == nil:
			s.answer(conn) // it does not block: the line fits into the buffer of the connection
			open.Enter(conn)
			s.running.Go(func() { defer open.Leave(conn); awaitEnd(conn) })
		case errors.Is(err, net.ErrClosed):
			return nil
		case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE), errors.Is(err, syscall.ECONNABORTED):
			select { // sessions end and free descriptors
			case <-time.After(patience / 10):
			case <-s.closed:
			}
		default:
			return fmt.Errorf("agent listener %s: %w", ln.Addr(), err)
		}
	}
}

// Close closes the listener. Serve returns when running checks have been answered,
// within a second.
func (s *Server) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return nil
	}
	s.ended = true
	close(s.closed)
	if s.ln == nil {
		return nil
	}
	return s.ln.Close()
}

// answer writes the line and ends the direction. If that fails, awaitEnd returns at once.
func (s *Server) answer(conn net.Conn) {
	if conn.SetDeadline(time.Now().Add(patience)) != nil {
		return
	}
	if _, err := io.WriteString(conn, Line(s.o.Unready(), s.o.Weight)); err != nil {
		return
	}
	if c, ok := conn.(interface{ CloseWrite() error }); ok {
		_ = c.CloseWrite()
	}
}

// awaitEnd reads what the balancer may have sent before it closes: closing with unread
// data resets the connection, and the line could be lost.
func awaitEnd(conn net.Conn) {
	defer conn.Close()
	io.Copy(io.Discard, io.LimitReader(conn, 1<<10)) //nolint:errcheck // the end or the deadline comes
}

// Line returns the answer to a check. HAProxy ignores a line without its end. "up"
// does not end a drain that an earlier answer began; "ready" does.
func Line(unready string, weight func() int) string {
	switch unready {
	case "":
		return fmt.Sprintf("up ready %d%%\n", weight())
	case admin.Draining, admin.Drained:
		return "drain\n"
	}
	return "down #" + strings.ReplaceAll(unready, "\n", " ") + "\n"
}

// Weight returns the free share of limit in per cent, and at least 1: HAProxy sends
// no clients to a server of weight 0.
func Weight(used, limit int) int {
	if limit <= 0 || used <= 0 {
		return 100
	}
	return min(max(int(100*int64(limit-used)/int64(limit)), 1), 100)
}

// Descriptors returns how many file descriptors this process has open, and limit if
// there is none left to count them with. It returns 0 where the system does not tell.
func Descriptors(limit int) int {
	for _, dir := range []string{"/proc/self/fd", "/dev/fd"} {
		names, err := names(dir)
		switch {
		case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
			return limit
		case err == nil:
			return names - 1 // without the one of the folder
		}
	}
	return 0
}

func names(dir string) (int, error) {
	f, err := os.Open(dir)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	return len(names), err
}
