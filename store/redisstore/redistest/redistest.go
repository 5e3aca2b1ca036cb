// Package redistest starts real Redis processes for a test: one server, one
// with TLS, servers behind sentinels, and a Redis Cluster, all on loopback.
package redistest

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"usher/deploy/need"
)

// Server is a redis-server or redis-sentinel process of one test.
type Server struct {
	Addr    string
	t       testing.TB
	command string
	args    []string
	tls     *tls.Config // how to reach it, nil without TLS
	options string      // of its URL
	cmd     *exec.Cmd
	log     bytes.Buffer
	client  *redis.Client
}

// Start starts a server without persistence. It ends with the test. Without
// redis-server in the PATH, the test is skipped; in CI it fails.
func Start(t testing.TB, args ...string) *Server {
	t.Helper()
	addr := freeAddr(t)
	host, port, _ := net.SplitHostPort(addr)
	return launch(&Server{Addr: addr, t: t, args: append([]string{"--bind", host, "--port", port}, args...)})
}

// launch adds the options that all servers need, and starts the process.
func launch(s *Server) *Server {
	s.t.Helper()
	if s.command == "" {
		s.command = "redis-server"
		s.args = append(s.args, "--dir", s.t.TempDir(), "--save", "", "--appendonly", "no",
			"--enable-protected-configs", "yes")
	}
	need.Program(s.t, s.command)
	s.Start()
	s.t.Cleanup(s.Kill)
	return s
}

// URL returns the address as redisstore.Open takes it.
func (s *Server) URL() string {
	scheme := "redis"
	if s.tls != nil {
		scheme = "rediss"
	}
	return scheme + "://" + s.Addr + "/0" + s.options
}

// Client returns a client with all rights. It is closed with the test.
func (s *Server) Client() *redis.Client {
	if s.client == nil {
		s.client = redis.NewClient(&redis.Options{Addr: s.Addr, TLSConfig: s.tls})
		s.t.Cleanup(func() { s.client.Close() })
	}
	return s.client
}

// Start starts the process. After Kill, it starts it on the same port, without the old
// data.
func (s *Server) Start() {
	s.t.Helper()
	s.log.Reset()
	s.cmd = exec.Command(s.command, s.args...)
	s.cmd.Stdout, s.cmd.Stderr = &s.log, &s.log
	if err := s.cmd.Start(); err != nil {
		s.t.Fatalf("starting %s: %v", s.command, err)
	}
	for deadline := time.Now().Add(time.Minute); ; {
		if s.answers() {
			return
		}
		if time.Now().After(deadline) {
			s.Kill()
			s.t.Fatalf("%s did not answer within 10s:\n%s", s.command, s.log.String())
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// Kill ends the process at once, as a crash does. It is idempotent.
func (s *Server) Kill() {
	if s.cmd == nil {
		return
	}
	_, _ = s.cmd.Process.Kill(), s.cmd.Wait() // it has ended, or ends now
	s.cmd = nil
}

// FailToSave makes the server fail to save its data, because there is a folder in place
// of the file. After that, it refuses writes until save is set to "".
func (s *Server) FailToSave() {
	s.t.Helper()
	ctx, client := context.Background(), s.Client()
	dir, err := client.ConfigGet(ctx, "dir").Result()
	if err != nil {
		s.t.Fatal(err)
	}
	const folder = "folder.rdb"
	if err := errors.Join(
		os.MkdirAll(filepath.Join(dir["dir"], folder), 0o700),
		client.ConfigSet(ctx, "dbfilename", folder).Err(),
		client.ConfigSet(ctx, "save", "3600 1").Err(),
		client.BgSave(ctx).Err(),
	); err != nil {
		s.t.Fatal(err)
	}
	Eventually(s.t, time.Minute, "saving fails", func() bool {
		return strings.Contains(client.Info(ctx, "persistence").Val(), "rdb_last_bgsave_status:err")
	})
}

// PID returns the process id, for signals.
func (s *Server) PID() int { return s.cmd.Process.Pid }

// Unfollow disconnects a replica from its primary, until Follow. The replica keeps its
// data.
func (s *Server) Unfollow() {
	s.t.Helper()
	s.setMasterAuth("a password that the primary does not know")
	if err := s.Client().ClientKillByFilter(context.Background(), "TYPE", "master").Err(); err != nil {
		s.t.Fatal(err)
	}
}

// Follow ends what Unfollow began.
func (s *Server) Follow() {
	s.t.Helper()
	s.setMasterAuth("")
}

func (s *Server) setMasterAuth(password string) {
	s.t.Helper()
	if err := s.Client().ConfigSet(context.Background(), "masterauth", password).Err(); err != nil {
		s.t.Fatal(err)
	}
}

// Turn begins another history in the server, as the promotion of a replica does. Its
// process, its data and its connections stay.
func (s *Server) Turn() {
	s.t.Helper()
	for _, of := range [][2]string{{"127.0.0.1", "1"}, {"NO", "ONE"}} { // nobody is at that port
		if err := s.Client().ReplicaOf(s.t.Context(), of[0], of[1]).Err(); err != nil {
			s.t.Fatal(err)
		}
	}
}

func (s *Server) answers() bool {
	c, err := net.DialTimeout("tcp", s.Addr, time.Second)
	if err != nil {
		return false
	}
	if s.tls != nil {
		c = tls.Client(c, s.tls)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(time.Second)); err != nil {
		return false
	}
	fmt.Fprint(c, "PING\r\n")
	reply := make([]byte, 5)
	n, _ := c.Read(reply)
	return strings.HasPrefix(string(reply[:n]), "+PONG") || strings.HasPrefix(string(reply[:n]), "-NOAU")
}

// freeAddr returns an address that nobody else gets while the server is down.
func freeAddr(t testing.TB) string {
	t.Helper()
	return fmt.Sprintf("127.0.0.1:%d", need.Port(t))
}

// Eventually polls until ok, and fails the test after the time given.
func Eventually(t testing.TB, within time.Duration, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(within); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", within, what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}
