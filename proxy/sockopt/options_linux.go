package sockopt

import (
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// listenConfig sets keep-alive on the listener. Connections inherit it. Package net
// would make four system calls for each connection. Urgent data stays in the stream, so
// it is relayed like other data and not lost.
func listenConfig(k net.KeepAliveConfig) net.ListenConfig {
	on := 0
	if k.Enable {
		on = 1
	}
	return net.ListenConfig{KeepAlive: -1, Control: func(_, _ string, c syscall.RawConn) error {
		return setInts(c, []option{
			{unix.SOL_SOCKET, unix.SO_KEEPALIVE, on},
			{unix.SOL_SOCKET, unix.SO_OOBINLINE, 1},
			{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, int(k.Idle / time.Second)},
			{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, int(k.Interval / time.Second)},
			{unix.IPPROTO_TCP, unix.TCP_KEEPCNT, k.Count},
		})
	}}
}

// urgentInline keeps urgent data in the stream of a socket that is to connect.
func urgentInline(_, _ string, c syscall.RawConn) error {
	return setInts(c, []option{{unix.SOL_SOCKET, unix.SO_OOBINLINE, 1}})
}

// choosePortLate does what urgentInline does. It also lets connect choose the port of a
// socket that is bound to an address, because connect may share a port among targets,
// and bind may not. Where the system does not know the option, as on gVisor and old
// kernels, bind chooses the port.
func choosePortLate(network, address string, c syscall.RawConn) error {
	if err := urgentInline(network, address, c); err != nil {
		return err
	}
	_ = setInts(c, []option{{unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1}})
	return nil
}

type option struct{ level, name, value int }

func setInts(c syscall.RawConn, options []option) error {
	var failed error
	err := c.Control(func(fd uintptr) {
		for _, o := range options {
			if failed == nil {
				failed = unix.SetsockoptInt(int(fd), o.level, o.name, o.value)
			}
		}
	})
	if err != nil {
		return err
	}
	return failed
}
