// Package redistest starts a real Redis for a test.
package redistest

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// Server is a redis-server process of the test's own, on loopback.
type Server struct {
	Addr string
	t    testing.TB
	dir  string
	args []string
	cmd  *exec.Cmd
	log  bytes.Buffer
}

// Start starts a server without persistence that ends with the test. Without
// a redis-server on the path the test is skipped, in CI it fails.
func Start(t testing.TB, args ...string) *Server {
	t.Helper()
	if _, err := exec.LookPath("redis-server"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatalf("redis-server is needed in CI: %v", err)
		}
		t.Skip("redis-server is not installed")
	}
	s := &Server{Addr: freeAddr(t), t: t, dir: t.TempDir(), args: args}
	s.Start()
	t.Cleanup(s.Kill)
	return s
}

// URL returns the address as redisstore.Open takes it.
func (s *Server) URL() string { return "redis://" + s.Addr + "/0" }

// Start starts the process, again after Kill: on the same port, with nothing
// of the data that it had.
func (s *Server) Start() {
	s.t.Helper()
	host, port, _ := net.SplitHostPort(s.Addr)
	args := append([]string{"--bind", host, "--port", port, "--dir", s.dir, "--save", "", "--appendonly", "no"}, s.args...)
	s.log.Reset()
	s.cmd = exec.Command("redis-server", args...)
	s.cmd.Stdout, s.cmd.Stderr = &s.log, &s.log
	if err := s.cmd.Start(); err != nil {
		s.t.Fatalf("starting redis-server: %v", err)
	}
	for deadline := time.Now().Add(10 * time.Second); ; {
		if answers(s.Addr) {
			return
		}
		if time.Now().After(deadline) {
			s.Kill()
			s.t.Fatalf("redis-server did not answer within 10s:\n%s", s.log.String())
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// Kill ends the process at once, as a crash would. It is idempotent.
func (s *Server) Kill() {
	if s.cmd == nil {
		return
	}
	s.cmd.Process.Kill()
	s.cmd.Wait()
	s.cmd = nil
}

// PID returns the process id, for signals.
func (s *Server) PID() int { return s.cmd.Process.Pid }

func answers(addr string) bool {
	c, err := net.DialTimeout("tcp", addr, time.Second)
	if err != nil {
		return false
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(time.Second))
	fmt.Fprint(c, "PING\r\n")
	reply := make([]byte, 5)
	n, _ := c.Read(reply)
	return strings.HasPrefix(string(reply[:n]), "+PONG")
}

func freeAddr(t testing.TB) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
