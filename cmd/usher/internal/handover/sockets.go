// Package handover holds the listening sockets of a process, and hands them over to the
// process that replaces it. The process or systemd has opened the sockets.
package handover

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"sync"
	"syscall"

	"github.com/coreos/go-systemd/v22/activation"

	"usher/proxy"
)

// Role says what a socket is for.
type Role string

// The roles. A socket of systemd has its role as FileDescriptorName. Any other name
// means SOCKS.
const (
	SOCKS Role = "socks"
	Admin Role = "admin"
	Agent Role = "agent"
)

// socket is a listening socket.
type socket struct {
	Role    Role   `json:"role"`
	Address string `json:"address"` // as configured; for a given socket, its actual address
	// Given says that systemd opened the socket. Given sockets replace configured
	// addresses. This process cannot open them again.
	Given bool `json:"given,omitempty"`

	ln        net.Listener
	file      *os.File // of a given socket; it must stay open when ln is closed
	suspended bool
}

// Sockets are the listening sockets of a process. Its methods are safe for concurrent
// use.
type Sockets struct {
	mu      sync.Mutex
	waiting []*socket // from systemd or the process before, until Open asks for them
	open    []*socket
}

// given returns the sockets that systemd has opened for this process. It removes the
// variables of systemd, so that child processes do not use these sockets.
func given() (*Sockets, error) {
	s := new(Sockets)
	var failed error
	for _, file := range activation.Files(true) {
		sock, err := adopt(socket{Role: Role(file.Name()), Given: true}, file)
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("socket %s of systemd: %w; Usher takes ListenStream= with a port", file.Name(), err))
			continue
		}
		if sock.Role != Admin && sock.Role != Agent {
			sock.Role = SOCKS
		}
		s.waiting = append(s.waiting, sock)
	}
	if failed != nil {
		return nil, errors.Join(failed, s.Close())
	}
	return s, nil
}

// adopt completes sock with a descriptor from outside. It closes the file unless sock
// keeps it.
func adopt(sock socket, file *os.File) (*socket, error) {
	ln, err := proxy.Adopt(file)
	if err != nil || !sock.Given {
		file.Close()
	}
	if err != nil {
		return nil, err
	}
	if sock.ln = ln; sock.Given {
		sock.file, sock.Address = file, ln.Addr().String()
	}
	return &sock, nil
}

// Given reports whether systemd has opened sockets of a role.
func (s *Sockets) Given(r Role) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, list := range [][]*socket{s.waiting, s.open} {
		for _, sock := range list {
			if sock.Role == r && sock.Given {
				return true
			}
		}
	}
	return false
}

// Open returns the listeners of a role. If systemd has opened some, it returns these.
// Otherwise it returns one for each address: that of the process before, or a new one
// from listen. After Suspend, it does the same as Resume.
func (s *Sockets) Open(r Role, addresses []string, listen func(address string) (net.Listener, error)) ([]net.Listener, error) {
	if lns, err := s.Resume(r, listen); err != nil || len(lns) > 0 {
		return lns, err
	}
	if s.Given(r) {
		return s.claim(r, func(sock *socket) bool { return sock.Given }), nil
	}
	var all []net.Listener
	for _, a := range addresses {
		found := false
		handed := s.claim(r, func(sock *socket) bool {
			first := !found && sock.Address == a
			found = found || first
			return first
		})
		if len(handed) > 0 {
			all = append(all, handed...)
			continue
		}
		ln, err := listen(a)
		if err != nil {
			return nil, err
		}
		s.add(&socket{Role: r, Address: a, ln: ln})
		all = append(all, ln)
	}
	return all, nil
}

func (s *Sockets) add(sock *socket) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open = append(s.open, sock)
}

// claim moves sockets of a role from waiting to open.
func (s *Sockets) claim(r Role, wanted func(*socket) bool) (lns []net.Listener) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var rest []*socket
	for _, sock := range s.waiting {
		if sock.Role != r || !wanted(sock) {
			rest = append(rest, sock)
			continue
		}
		s.open = append(s.open, sock)
		lns = append(lns, sock.ln)
	}
	s.waiting = rest
	return lns
}

// CloseUnused closes the sockets of systemd and of the process before that Open has not
// returned.
func (s *Sockets) CloseUnused() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := closeAll(s.waiting)
	s.waiting = nil
	return err
}

// Suspend closes the listeners of a role until Resume. A socket of systemd stays open in
// systemd, so new clients wait.
func (s *Sockets) Suspend(r Role) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var failed error
	for _, sock := range s.open {
		if sock.Role == r {
			sock.suspended = true
			failed = errors.Join(failed, closed(sock.ln.Close()))
		}
	}
	return failed
}

// Resume opens the suspended listeners of a role again, at the same ports, and returns
// them. If it cannot open one, all stay suspended.
func (s *Sockets) Resume(r Role, listen func(address string) (net.Listener, error)) ([]net.Listener, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	again := map[*socket]net.Listener{}
	var lns []net.Listener
	for _, sock := range s.open {
		if sock.Role != r || !sock.suspended {
			continue
		}
		ln, err := sock.reopen(listen)
		if err != nil {
			for _, ln := range lns {
				ln.Close()
			}
			return nil, err
		}
		again[sock] = ln
		lns = append(lns, ln)
	}
	for sock, ln := range again {
		sock.ln, sock.suspended = ln, false
	}
	return lns, nil
}

func (sock *socket) reopen(listen func(address string) (net.Listener, error)) (net.Listener, error) {
	if sock.Given {
		return proxy.Adopt(sock.file)
	}
	return listen(samePort(sock.Address, sock.ln.Addr()))
}

// samePort returns the configured address with the port that the listener had.
func samePort(address string, had net.Addr) string {
	host, _, err := net.SplitHostPort(address)
	tcp, ok := had.(*net.TCPAddr)
	if err != nil || !ok {
		return address
	}
	return net.JoinHostPort(host, strconv.Itoa(tcp.Port))
}

// Addresses returns the addresses of the listeners of a role, without suspended ones.
func (s *Sockets) Addresses(r Role) []string {
	list := []string{}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sock := range s.open {
		if sock.Role == r && !sock.suspended {
			list = append(list, sock.ln.Addr().String())
		}
	}
	return list
}

// Close closes all sockets. It may be called again.
func (s *Sockets) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return errors.Join(closeAll(s.waiting), closeAll(s.open))
}

func closeAll(list []*socket) (failed error) {
	for _, sock := range list {
		failed = errors.Join(failed, closed(sock.ln.Close()))
		if sock.file != nil {
			failed = errors.Join(failed, sock.file.Close())
			sock.file = nil
		}
	}
	return failed
}

// closed returns err, or nil if err says that the socket was closed before.
func closed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// duplicate returns another descriptor of a socket. The File of a listener would make
// the socket block, for this process and for others that have it.
func (sock *socket) duplicate() (fd int, err error) {
	conn, ok := sock.ln.(syscall.Conn)
	if !ok {
		return 0, fmt.Errorf("%T has no descriptor", sock.ln)
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	failed := raw.Control(func(d uintptr) {
		syscall.ForkLock.RLock()
		defer syscall.ForkLock.RUnlock()
		if fd, err = syscall.Dup(int(d)); err == nil {
			syscall.CloseOnExec(fd)
		}
	})
	return fd, errors.Join(failed, err)
}
