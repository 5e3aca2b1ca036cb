package redisstore_test

import (
	"context"
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"usher/store"
	"usher/store/redisstore/redistest"
)

// connected returns a server and a connection to it.
func connected(t *testing.T) (*redistest.Server, store.Conn) {
	t.Helper()
	server := redistest.Start(t)
	s := open(t, server.URL(), "dial")
	c, err := s.Dial(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); s.Close() })
	return server, c
}

// A call ends with its context, even if the server never answers.
func TestSilentServer(t *testing.T) {
	server, c := connected(t)
	if err := syscall.Kill(server.PID(), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		_, err := c.Observe(ctx, nil)
		ended <- err
	}()
	select {
	case err := <-ended:
		if !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%v, want the deadline", err)
		}
	case <-time.After(time.Minute):
		t.Error("it waits on when its time is over")
	}
}

// A request that the server has refused is not sent again by the client library.
func TestNothingIsSentTwice(t *testing.T) {
	server, c := connected(t)
	join := store.Join{Replica: "h", Candidate: "b1", Stream: 1, Settings: pairSettings(false), Space: "c1a"}
	if _, err := c.Join(t.Context(), join); err != nil {
		t.Fatal(err)
	}
	redis := server.Client()
	if err := redis.ConfigSet(t.Context(), "min-replicas-to-write", "1").Err(); err != nil {
		t.Fatal(err)
	}
	join.Stream++
	if _, err := c.Join(t.Context(), join); !errors.Is(err, store.ErrMoved) {
		t.Errorf("%v, want %v", err, store.ErrMoved)
	}
	errs, err := redis.Info(t.Context(), "errorstats").Result()
	if err != nil || !strings.Contains(errs, "errorstat_NOREPLICAS:count=1\r\n") {
		t.Errorf("%v, the server has refused it more than once: %q", err, errs)
	}
}
