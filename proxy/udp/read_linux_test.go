package udp

import (
	"errors"
	"net"
	"strconv"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"usher/deploy/need"
)

// Datagrams are read one by one where the system refuses to read in batches,
// also if it begins to refuse while a socket is read.
func TestBatchesAreRefused(t *testing.T) {
	for name, errno := range map[string]syscall.Errno{"EPERM": unix.EPERM, "ENOSYS": unix.ENOSYS, "EOPNOTSUPP": unix.EOPNOTSUPP} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if !need.Alone(t) {
				return
			}
			u, far, _ := pair(t, nil)
			came, ended := make(chan string), make(chan error)
			go func() {
				ended <- u.each(3, func(b []byte, o origin) {
					if o.from != far.LocalAddr().(*net.UDPAddr).AddrPort() {
						t.Errorf("from %v", o.from)
					}
					came <- string(b[3:])
				})
			}()
			for i := range 20 {
				if i == 10 {
					need.Refuse(t, unix.SYS_RECVMMSG, errno)
				}
				if _, err := far.WriteToUDPAddrPort([]byte(strconv.Itoa(i)), u.local); err != nil {
					t.Fatal(err)
				}
				if got := <-came; got != strconv.Itoa(i) {
					t.Fatalf("datagram %d is %q", i, got)
				}
			}
			if !noBatches.Load() {
				t.Error("the refusal is not remembered")
			}
			u.close()
			if err := <-ended; !errors.Is(err, net.ErrClosed) {
				t.Errorf("%v, want %v", err, net.ErrClosed)
			}
		})
	}
}
