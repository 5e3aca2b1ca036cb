package integration

import (
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"usher/deploy/need"
)

// TestOwnListenersByAnyRoute asks for Usher's own listeners at addresses that no
// interface has, and that the system delivers to the machine all the same.
func TestOwnListenersByAnyRoute(t *testing.T) {
	l := newLaboratory(t)
	for _, args := range []string{
		"address add 10.1.2.3/24 dev lo", // all of the network, as the interface is lo
		"route add local 192.0.2.0/24 dev lo",
		"-6 route add local 2001:db8:1::/64 dev lo",
	} {
		if out, err := exec.Command(need.Program(t, "busybox"), append([]string{"ip"}, strings.Fields(args)...)...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v: %s", args, err, out)
		}
	}
	config := filepath.Join(l.dir, "sockd.conf")
	writeFile(t, config, "client pass { from: 0/0 to: 0/0 }\nsocks pass { from: 0/0 to: 0/0 }\n")
	proxy := l.start("listening for SOCKS clients", 1, []string{
		"USHER_LISTEN=:1080", "USHER_ADMIN_LISTEN=:9090", "USHER_LOG_FORMAT=json", "USHER_CONFIG=" + config,
	}, usher, "serve")
	defer proxy.stop(t)
	others, err := net.Listen("tcp", ":9091")
	if err != nil {
		t.Fatal(err)
	}
	defer others.Close()
	c := client{proxy: "127.0.0.1:1080"}
	for _, host := range []string{"127.0.0.9", "10.1.2.3", "10.1.2.9", "192.0.2.5", "2001:db8:1::5"} {
		for port, want := range map[string]int{"1080": notAllowed, "9090": notAllowed, "9091": granted} {
			at := net.JoinHostPort(host, port)
			direct, err := net.DialTimeout("tcp", at, patience)
			if err != nil { // then there is nothing to keep clients from
				t.Fatalf("without Usher: %v", err)
			}
			direct.Close()
			a := c.connect(at)
			if a.reply != want {
				t.Errorf("%s: reply %d, %v, want %d", at, a.reply, a.err, want)
			}
			if a.Conn != nil {
				a.Close()
			}
		}
	}
}
