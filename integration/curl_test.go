package integration

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"strings"
	"testing"
)

// curl runs curl and returns what it printed, or its error.
func curl(t testing.TB, args ...string) (string, error) {
	t.Helper()
	out, err := exec.Command(tool(t, "curl"), append([]string{"-sS", "--max-time", "15"}, args...)...).CombinedOutput()
	return string(out), err
}

// TestCurl lets a client that we did not write use every way that it has to
// ask: by address, by name here and there, with and without a password, over IPv6.
func TestCurl(t *testing.T) {
	page := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "page for "+r.Host) //nolint:errcheck // curl would tell
	})
	web := httptest.NewServer(page)
	defer web.Close()
	web6 := httptest.NewUnstartedServer(page)
	ln, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		missing(t, "IPv6 on loopback: "+err.Error())
	}
	web6.Listener.Close()
	web6.Listener = ln
	web6.Start()
	defer web6.Close()
	_, port, _ := net.SplitHostPort(web.Listener.Addr().String())

	w := newWorld(t, options{users: users(t, "jo"), rules: func(_, _ endpoint) string {
		return fmt.Sprintf(`
socksmethod: username none
client pass {
	from: 0/0 to: 0/0
}
socks pass {
	from: 0/0 to: localhost port = %[1]s
	user: jo
}
socks block {
	from: 0/0 to: localhost port = %[1]s
}
socks pass {
	from: 0/0 to: ::1/128
}`, port)
	}})
	proxy := w.proxy.proxy
	for _, c := range []struct {
		proxy, url string
		want       string // of what curl prints
		fails      bool
	}{
		{proxy: "socks5h://jo:pw-jo@" + proxy, url: "http://localhost:" + port, want: "page for localhost:" + port},
		{proxy: "socks5://jo:pw-jo@" + proxy, url: web.URL, want: "page for 127.0.0.1:" + port},
		{proxy: "socks5://" + proxy, url: web6.URL, want: "page for [::1]:"},
		{proxy: "socks5h://" + proxy, url: "http://localhost:" + port, want: "(2)", fails: true},
		{proxy: "socks5h://jo:wrong@" + proxy, url: web.URL, fails: true},
	} {
		out, err := curl(t, "--proxy", c.proxy, c.url)
		if (err != nil) != c.fails || !strings.Contains(out, c.want) {
			t.Errorf("curl --proxy %s %s: %v: %s", c.proxy, c.url, err, out)
		}
	}
}
