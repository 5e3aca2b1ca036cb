package integration

import (
	"fmt"
	"io"
	"net"
	"regexp"
	"strings"
	"sync"
	"testing"
	"unicode"
)

// admins sends bytes to the admin listener and returns the answer, up to the end of the
// connection.
func (a *attack) admins(bytes string) string {
	a.t.Helper()
	conn, err := net.DialTimeout("tcp", strings.TrimPrefix(a.r.admin, "http://"), patience)
	if err != nil {
		a.t.Fatal(err)
	}
	defer conn.Close()
	_, _ = io.WriteString(within(conn), bytes) // it may hang up before it has read all
	got, err := io.ReadAll(conn)
	if err != nil && !reset(err) {
		a.t.Errorf("%.60q: %v", bytes, err)
	}
	return string(got)
}

// TestAttackAdminRequests sends huge and odd requests to the admin listener, and
// requests that try to change something or to read more than is public.
func TestAttackAdminRequests(t *testing.T) {
	a := newAttack(t, options{})
	const host = " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
	megabyte := strings.Repeat("x", 1<<20)
	for _, c := range []struct{ sent, want string }{
		{"GET /" + megabyte + host + "\r\n", "431 "},
		{"GET /healthz" + host + "X: " + megabyte + "\r\n\r\n", "431 "},
		{"GET /healthz" + host + strings.Repeat("X: y\r\n", 10_000) + "\r\n", "431 "},
		{"POST /status" + host + "Content-Length: 1048576\r\n\r\n" + megabyte, "405 "},
		{"PUT /healthz" + host + "\r\n", "405 "},
		{"DELETE /status" + host + "\r\n", "405 "},
		{"TRACE /metrics" + host + "\r\n", "405 "},
		{"CONNECT " + a.limited.String() + " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", "405 "},
		{"GET http://" + a.limited.String() + "/" + host + "\r\n", ""}, // no proxy
		{"GET /../../etc/passwd" + host + "\r\n", ""},
		{"GET /%2e%2e/%2e%2e/etc/passwd" + host + "\r\n", ""},
		{"GET /debug/pprof/" + host + "\r\n", "404 "},
		{"GET /healthz HTTP/1.1\r\n\r\n", "400 "},                                                // without a Host
		{"GET /status HTTP/1.1\r\nHost: rebound.evil.test\r\nConnection: close\r\n\r\n", "421 "}, // a name that leads here
		{"\x05\x01\x00", ""},
		{"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", "400 "},
	} {
		got := a.admins(c.sent)
		if !strings.HasPrefix(got, "HTTP/1.1 "+c.want) && got != "" || got == "" && c.want != "" && len(c.sent) < 1<<20 {
			t.Errorf("%.60q is answered %.60q, want %s", c.sent, got, c.want)
		}
		if strings.Contains(got, "root:") || strings.HasPrefix(got, "HTTP/1.1 200") && !strings.Contains(got, "usher admin listener") {
			t.Errorf("%.60q is answered %.200q", c.sent, got)
		}
	}
	a.honest()
}

// TestAttackAdminSlowly holds many connections to the admin listener. Some have sent
// half a request, others read no answer. Health checks are answered meanwhile, clients
// are served, and the listener closes the connections by itself.
func TestAttackAdminSlowly(t *testing.T) {
	a := newAttack(t, options{})
	var slow []net.Conn
	for i := range 100 {
		conn, err := net.DialTimeout("tcp", strings.TrimPrefix(a.r.admin, "http://"), patience)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		io.WriteString(within(conn), []string{"", "GET /status HT", "GET /metrics HTTP/1.1\r\nHost: localhost\r\nX-A: "}[i%3]) //nolint:errcheck // it may be refused
		slow = append(slow, conn)
	}
	if code, _, err := a.r.get("/healthz"); code != 200 {
		t.Errorf("/healthz: %d, %v", code, err)
	}
	a.honest()
	var ended sync.WaitGroup
	for _, conn := range slow {
		ended.Go(func() {
			if _, err := io.Copy(io.Discard, conn); err != nil && !reset(err) {
				t.Errorf("a slow connection is not ended: %v", err)
			}
		})
	}
	ended.Wait()
}

// TestAttackLog writes forged log lines into user names, host names and PROXY headers.
// In both formats, each entry stays one line of printable text, and no forged line
// appears. Status and metrics do not contain the text.
func TestAttackLog(t *testing.T) {
	const evil = "x\n{\"level\":\"INFO\",\"msg\":\"session ended\",\"user\":\"root\"}\r\n\x1b[2J\x1b]0;t\x07\x00\x08\"\\\x7f\xc2\x9b31m\xe2\x80\xae\xe2\x81\xa6\xe2\x80\x8b\xef\xbb\xbf\xe2\x80\xa8\xff\xfe"
	for _, format := range []string{"json", "text"} {
		t.Run(format, func(t *testing.T) {
			a := newAttack(t, options{users: users(t, "jo"), env: map[string]string{"USHER_LOG_FORMAT": format, "USHER_LOG_BUDGET": "0"}, rules: func(_, free endpoint) string {
				return "socksmethod: none username\nclient pass { from: 0/0 to: 0/0 }\nsocks pass { from: 0/0 to: " + free.to() + " }\n"
			}})
			noNUL := strings.ReplaceAll(evil, "\x00", "")
			sent := []string{
				"\x05\x01\x02\x01" + string([]byte{byte(len(evil))}) + evil + string([]byte{byte(len(evil))}) + evil,
				"\x05\x01\x00\x05\x01\x00\x03" + string([]byte{byte(len(noNUL))}) + noNUL + "\x00\x50",
				"\x04\x01\x00\x50\x00\x00\x00\x01" + noNUL + "\x00" + noNUL + "\x00",
				"\x04\x01\x00\x50\x7f\x00\x00\x01" + noNUL + "\x00",
				evil,
			}
			for _, bytes := range sent {
				a.send(attackerSource, bytes)
			}
			a.send(balancerSource, "PROXY TCP4 "+evil+" 127.0.0.1 1 2\r\n")
			eventually(t, patience, func() string {
				n := 0 // others may tell of what else happens, as of a store that is slow
				for line := range strings.Lines(a.r.proc.out.String()) {
					if strings.Contains(line, attackerSource+":") || strings.Contains(line, balancerSource+":") {
						n++
					}
				}
				if n != len(sent)+1 {
					return fmt.Sprintf("%d lines, want %d", n, len(sent)+1)
				}
				return ""
			})
			begins := regexp.MustCompile(map[string]string{"json": `^{"time":"`, "text": `^\d\d:\d\d:\d\d [A-Z]{3} `}[format])
			for line := range strings.Lines(a.r.proc.out.String()) {
				line = strings.TrimSuffix(line, "\n")
				if !begins.MatchString(line) || strings.ContainsFunc(line, func(r rune) bool { return !unicode.IsPrint(r) || r == unicode.ReplacementChar }) || strings.HasPrefix(line, `{"level"`) || strings.Contains(line, `"user":"root"`) {
					t.Errorf("log line %q", line)
				}
			}
			for _, path := range []string{"/metrics", "/status"} {
				if _, body, err := a.r.get(path); err != nil || strings.Contains(body, "root") || strings.Contains(body, "\x1b") {
					t.Errorf("%s shows a client's text, or nothing: %v", path, err)
				}
			}
		})
	}
}
