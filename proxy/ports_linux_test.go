package proxy

import (
	"context"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"usher/deploy/need"
)

// If all local ports towards a target are in use, this is not reported as an
// unreachable network. If the machine has no source address, this is not reported as a
// lack of ports.
func TestNoFreePort(t *testing.T) {
	s, _, ctx := newSession(t, "client pass { from: 0/0 to: 0/0 }\nsocks pass { from: 0/0 to: 0/0 }\n", 0)
	t.Cleanup(func() { s.finish(nil) })
	s.socksRule = s.gen.policy.Rules.Socks[0]
	missing := ""
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // for good: the thread ends with its network
		missing = inNetworkOfOnePort(ctx, t, s)
	}()
	<-done
	if missing != "" {
		need.Missing(t, missing)
	}
}

// inNetworkOfOnePort runs the test in its own network namespace, which belongs to the
// thread. It returns why it could not.
func inNetworkOfOnePort(ctx context.Context, t *testing.T, s *session) (missing string) {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return "the right to create network namespaces"
	}
	ip, err := exec.LookPath("ip")
	if err != nil {
		return "ip"
	}
	if out, err := exec.CommandContext(ctx, ip, "link", "set", "lo", "up").CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
		return ""
	}
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_local_port_range", []byte("60000 60000"), 0); err != nil {
		t.Error(err)
		return ""
	}
	ln, err := net.Listen("tcp4", "127.0.0.1:7")
	if err != nil {
		t.Error(err)
		return ""
	}
	defer ln.Close()
	for _, from := range []string{"", "127.0.0.7"} { // the system's choice, and external:
		if from != "" {
			s.gen.decide.External = []netip.Addr{netip.MustParseAddr(from)}
		}
		d := s.decision()
		localhost := []netip.Addr{netip.MustParseAddr("127.0.0.1")}
		first, err := s.dial(ctx, &d, localhost, 7)
		if err != nil {
			t.Error(err)
			return ""
		}
		_, err = s.dial(ctx, &d, localhost, 7)
		if o := outcomeOf(err); o.reason != "local_ports" {
			t.Errorf("from %q: %v, %s; want local_ports", from, err, o.reason)
		}
		first.Close()
		_, err = s.dial(ctx, &d, []netip.Addr{netip.MustParseAddr("192.0.2.1")}, 7)
		if o := outcomeOf(err); o.reason != "net_unreachable" {
			t.Errorf("from %q: %v, %s; want net_unreachable", from, err, o.reason)
		}
	}
	return ""
}
