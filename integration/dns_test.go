package integration

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"usher/deploy/need"
)

// TestNamesInDNS runs deploy/dns/dnsmasq.conf, where only addresses are changed: curl
// finds two replicas by one name, uses both, and the other one when one is dead.
func TestNamesInDNS(t *testing.T) {
	curl, unshare, dnsmasq := need.Program(t, "curl"), need.Program(t, "unshare"), need.Program(t, "dnsmasq")
	if os.Geteuid() != 0 {
		need.Missing(t, "root, for port 53 and mount namespaces")
	}
	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello") })) //nolint:errcheck // the client would tell
	defer page.Close()
	w := newWorld(t, options{replicas: 2, alone: true, env: map[string]string{"USHER_PROXY_PROTOCOL_FROM": ""}})

	// resolv.conf knows no ports.
	server := fmt.Sprintf("127.53.%d.%d", rand.IntN(256), 1+rand.IntN(250))
	dir := t.TempDir()
	conf, resolv := filepath.Join(dir, "dnsmasq.conf"), filepath.Join(dir, "resolv.conf")
	writeFile(t, conf, edited(t, "../deploy/dns/dnsmasq.conf", "192.0.2.11", w.hosts[0], "192.0.2.12", w.hosts[1]))
	writeFile(t, resolv, "nameserver "+server+"\n")
	start(t, "dnsmasq", nil, dnsmasq, "--keep-in-foreground", "--conf-file="+conf, "--listen-address="+server, "--bind-interfaces", "--user=root", "--pid-file=")
	fetch := func() (string, error) {
		cmd := exec.Command(unshare, "--mount", "sh", "-c", `mount --bind "$0" /etc/resolv.conf && exec "$@"`, resolv,
			curl, "-sS", "--max-time", "60", "--proxy", fmt.Sprintf("socks5h://socks.example:%d", w.ports.socks), page.URL)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	served := func(r *replica) float64 {
		return r.metrics(t).sum("usher_sessions_admitted_total", `command="connect"`)
	}
	eventually(t, patience, func() string {
		if out, err := fetch(); err != nil || out != "hello" {
			return fmt.Sprintf("curl: %v: %s", err, out)
		}
		for _, r := range w.replicas {
			if served(r) == 0 {
				return r.name + " has not served a client yet"
			}
		}
		return ""
	})
	w.replicas[0].kill()
	for range 4 { // whichever address comes first
		if out, err := fetch(); err != nil || !strings.HasSuffix(out, "hello") {
			t.Errorf("with a dead replica: curl: %v: %s", err, out)
		}
	}
}
