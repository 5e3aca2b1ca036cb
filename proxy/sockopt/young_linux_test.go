package sockopt

import (
	"net"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

// pairs returns n connections to a listener.
func pairs(t *testing.T, n int) (list []*net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	dialer := net.Dialer{KeepAlive: -1}
	for range n {
		c, err := dialer.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		list = append(list, c.(*net.TCPConn))
	}
	return list
}

// keepAliveOf returns the keep-alive of a connection.
func keepAliveOf(t *testing.T, c *net.TCPConn) net.KeepAliveConfig {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var k net.KeepAliveConfig
	if err := raw.Control(func(fd uintptr) {
		get := func(level, option int) int {
			n, err := unix.GetsockoptInt(int(fd), level, option)
			if err != nil {
				t.Error(err)
			}
			return n
		}
		k.Enable = get(unix.SOL_SOCKET, unix.SO_KEEPALIVE) == 1
		k.Idle = time.Duration(get(unix.IPPROTO_TCP, unix.TCP_KEEPIDLE)) * time.Second
		k.Interval = time.Duration(get(unix.IPPROTO_TCP, unix.TCP_KEEPINTVL)) * time.Second
		k.Count = get(unix.IPPROTO_TCP, unix.TCP_KEEPCNT)
	}); err != nil {
		t.Fatal(err)
	}
	return k
}

// A connection gets its keep-alive when it is some seconds old, and at once if the first
// probe may be due before. One that has ended meanwhile does no harm.
func TestYoung(t *testing.T) {
	conns := pairs(t, 5)
	k := net.KeepAliveConfig{Enable: true, Idle: time.Minute, Interval: 15 * time.Second, Count: 4}
	synctest.Test(t, func(t *testing.T) {
		var y Young
		y.Add(conns[0], k)
		y.Add(conns[1], net.KeepAliveConfig{Idle: time.Minute})
		soon := k
		soon.Idle = 2 * youngFor
		y.Add(conns[2], soon)
		if got := keepAliveOf(t, conns[2]); got != soon {
			t.Errorf("%+v, want %+v", got, soon)
		}
		y.Add(conns[3], k)
		conns[3].Close()
		time.Sleep(youngFor + youngFor/2) // the timer has fired once
		y.Add(conns[4], k)
		if keepAliveOf(t, conns[0]).Enable {
			t.Error("a young connection has keep-alive")
		}
		time.Sleep(youngFor)
		synctest.Wait()
		if got := keepAliveOf(t, conns[0]); got != k {
			t.Errorf("%+v, want %+v", got, k)
		}
		if keepAliveOf(t, conns[1]).Enable {
			t.Error("keep-alive is on, although it is off in the configuration")
		}
		time.Sleep(youngFor)
		synctest.Wait()
		if got := keepAliveOf(t, conns[4]); got != k {
			t.Errorf("%+v, want %+v", got, k)
		}
		if y.timer != nil || len(y.young)+len(y.old) > 0 {
			t.Errorf("%d connections are still kept", len(y.young)+len(y.old))
		}
	})
}
