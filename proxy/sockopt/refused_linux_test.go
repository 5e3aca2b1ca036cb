package sockopt

import (
	"net"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"usher/deploy/need"
)

// A connection from an address of ours does without the option that saves ports,
// which gVisor does not know.
func TestDialerWithoutLatePort(t *testing.T) {
	if !need.Alone(t) {
		return
	}
	need.Refuse(t, unix.SYS_SETSOCKOPT, unix.ENOPROTOOPT, need.Option{Level: unix.IPPROTO_IP, Name: unix.IP_BIND_ADDRESS_NO_PORT})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	from := netip.MustParseAddrPort("127.0.0.1:0")
	dialer := Dialer(from)
	conn, err := dialer.DialContext(t.Context(), "tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
}
