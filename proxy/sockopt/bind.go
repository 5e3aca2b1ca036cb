package sockopt

import (
	"net"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Bind returns a TCP socket that is bound to a and does not listen yet, with the
// options that package net sets. port is the port of a, or the one that the system
// chose if that is 0. The caller closes the file.
func Bind(a netip.AddrPort) (file *os.File, port uint16, err error) {
	family, name := unix.AF_INET, unix.Sockaddr(&unix.SockaddrInet4{Port: int(a.Port())})
	if a.Addr().Is4() {
		name.(*unix.SockaddrInet4).Addr = a.Addr().As4()
	} else {
		family, name = unix.AF_INET6, &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16(), ZoneId: zoneID(a.Addr())}
	}
	syscall.ForkLock.RLock() // no child process may start before the descriptor is close-on-exec
	fd, err := unix.Socket(family, unix.SOCK_STREAM, 0)
	if err == nil {
		unix.CloseOnExec(fd)
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return nil, 0, os.NewSyscallError("socket", err)
	}
	file = os.NewFile(uintptr(fd), "bind")
	if port, err = bindTo(fd, name); err != nil {
		file.Close()
		return nil, 0, err
	}
	return file, port, nil
}

func bindTo(fd int, name unix.Sockaddr) (port uint16, err error) {
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_OOBINLINE, 1); err != nil { // as listenConfig does
		return 0, os.NewSyscallError("setsockopt", err)
	}
	if err := unix.Bind(fd, name); err != nil {
		return 0, os.NewSyscallError("bind", err)
	}
	if name, err = unix.Getsockname(fd); err != nil {
		return 0, os.NewSyscallError("getsockname", err)
	}
	switch n := name.(type) {
	case *unix.SockaddrInet4:
		port = uint16(n.Port)
	case *unix.SockaddrInet6:
		port = uint16(n.Port)
	}
	return port, nil
}

// zoneID returns the number of a's zone, 0 if it has none.
func zoneID(a netip.Addr) uint32 {
	if i, err := net.InterfaceByName(a.Zone()); err == nil {
		return uint32(i.Index)
	}
	return 0
}

// ListenOne makes a bound socket listen for one connection. The listener has a
// descriptor of its own. The caller closes both.
func ListenOne(bound *os.File) (*net.TCPListener, error) {
	if err := unix.Listen(int(bound.Fd()), 1); err != nil {
		return nil, os.NewSyscallError("listen", err)
	}
	ln, err := net.FileListener(bound)
	if err != nil {
		return nil, err
	}
	return ln.(*net.TCPListener), nil
}
