package proxy

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"syscall"
	"time"

	"usher/proxy/selfaddr"
)

// Bounds of the pause after a temporary error of Accept.
const (
	minBackOff = 5 * time.Millisecond
	maxBackOff = time.Second
)

// Serve accepts sessions from ln until ln is closed, and then returns nil. It returns any
// other error of ln. Several listeners may be served at a time. Connections must be
// *net.TCPConn, so ln must come from net.Listen or net.ListenConfig.
//
// If the process has no descriptors or memory left, Serve closes clients at once if it
// can. Otherwise it pauses, at most a second at a time. It continues when sessions have
// ended.
func (s *Server) Serve(ln net.Listener) error {
	if !s.addListener(ln) {
		return ln.Close()
	}
	defer s.removeListener(ln)
	var backOff time.Duration
	for {
		conn, err := ln.Accept()
		switch {
		case err == nil:
			backOff = 0
		case errors.Is(err, net.ErrClosed):
			return nil
		case outOfDescriptors(err) && s.shed(ln):
			continue
		case isTemporary(err):
			if backOff == 0 {
				s.opts.Logger.Warn("cannot accept clients, retrying", slog.String("listen", ln.Addr().String()), slog.Any("error", err))
			}
			backOff = min(max(2*backOff, minBackOff), maxBackOff)
			time.Sleep(backOff)
			continue
		default:
			return fmt.Errorf("listener %s: %w", ln.Addr(), err)
		}
		client, ok := conn.(*net.TCPConn)
		if !ok {
			return errors.Join(fmt.Errorf("listener %s: gives %T; it must give *net.TCPConn", ln.Addr(), conn), conn.Close())
		}
		s.start(client)
	}
}

// isTemporary reports whether Accept may work again after err.
func isTemporary(err error) bool {
	for _, e := range []syscall.Errno{
		syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, // until a session ends
		syscall.ECONNABORTED, syscall.EPROTO, syscall.EINTR, syscall.EPERM, // concerns one client only
		syscall.ENETDOWN, syscall.EHOSTDOWN, syscall.EHOSTUNREACH, syscall.ENETUNREACH,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

func (s *Server) addListener(ln net.Listener) bool {
	l := &s.listening
	l.Lock()
	defer l.Unlock()
	if l.closed {
		return false
	}
	l.listeners[ln] = struct{}{}
	for _, addr := range selfaddr.OfListener(ln) {
		if !slices.Contains(l.own, addr) {
			l.own = append(l.own, addr)
		}
	}
	return true
}

func (s *Server) removeListener(ln net.Listener) {
	s.listening.Lock()
	defer s.listening.Unlock()
	delete(s.listening.listeners, ln)
}

// CloseListeners ends every Serve, and every later one at once. Sessions continue.
func (s *Server) CloseListeners() error {
	l := &s.listening
	l.Lock()
	defer l.Unlock()
	l.closed = true
	s.spare.close()
	var errs []error
	for ln := range l.listeners {
		if err := ln.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
