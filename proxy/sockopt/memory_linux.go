package sockopt

import (
	"net"
	"os"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Memory returns how many bytes of memory the kernel holds for what c has received and
// what it has to send. The error is ErrMemory if the system does not tell.
func Memory(c *net.TCPConn) (bytes int64, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var errno unix.Errno
	var info [unix.SK_MEMINFO_VARS]uint32
	err = raw.Control(func(fd uintptr) {
		size := uint32(unsafe.Sizeof(info))
		_, _, errno = unix.Syscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_MEMINFO,
			uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
	})
	if err != nil {
		return 0, err
	}
	if errno != 0 {
		return 0, ErrMemory
	}
	for _, part := range []int{unix.SK_MEMINFO_RMEM_ALLOC, unix.SK_MEMINFO_WMEM_QUEUED, unix.SK_MEMINFO_FWD_ALLOC, unix.SK_MEMINFO_BACKLOG} {
		bytes += int64(int32(info[part])) // what is reserved may be negative for a moment
	}
	return bytes, nil
}

// Unsent returns how many bytes the kernel has to send on c or waits for the peer to
// acknowledge. It is 0 for a closed connection.
func Unsent(c *net.TCPConn) (bytes int) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0
	}
	_ = raw.Control(func(fd uintptr) { // it fails on a closed connection only
		bytes, _ = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ)
	})
	return bytes
}

// MachineMemory returns how many bytes of memory the kernel holds for all TCP
// connections of the machine, or false if the system does not tell.
func MachineMemory() (bytes int64, ok bool) {
	text, err := os.ReadFile("/proc/net/sockstat")
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line) // TCP: inuse 5 orphan 0 tw 0 alloc 7 mem 1
		if len(fields) == 11 && fields[0] == "TCP:" && fields[9] == "mem" {
			pages, err := strconv.ParseInt(fields[10], 10, 64)
			return pages * int64(os.Getpagesize()), err == nil
		}
	}
	return 0, false
}
