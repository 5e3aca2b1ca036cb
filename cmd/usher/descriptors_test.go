package main

import (
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"testing"
	"time"
)

// dialSocks connects without sending anything.
func dialSocks(t *testing.T, p *process) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", p.socks)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return c
}

// TestOutOfDescriptors uses up all descriptors. The next client is closed at once, and
// the process serves again when descriptors are free.
func TestOutOfDescriptors(t *testing.T) {
	t.Parallel()
	p := launchCommand(t, exec.Command("sh", "-c", "ulimit -n 40; exec usher"), "USHER_MAX_NEGOTIATING=1000", "USHER_MAX_SESSIONS=1000")
	if line := p.logged("usher starts"); line["descriptors"] != 40.0 {
		t.Fatal(line)
	}
	p.logged("USHER_MAX_SESSIONS needs more descriptors than the process may open")
	var held []net.Conn
	for range 60 {
		held = append(held, dialSocks(t, p))
	}
	last := held[len(held)-1]
	if n, err := last.Read(make([]byte, 1)); n > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the last of 60 clients got %d bytes, %v; want to be closed", n, err)
	}
	p.logged("clients are turned away")
	for _, c := range held {
		c.Close()
	}
	served := false
	for end := time.Now().Add(patience); !served && time.Now().Before(end); {
		c := dialSocks(t, p)
		if _, err := c.Write([]byte{5, 1, 0}); err == nil {
			_, err = io.ReadFull(c, make([]byte, 2))
			served = err == nil
		}
		c.Close()
	}
	if !served {
		t.Error("no client is served although descriptors are free again")
	}
	if code, _ := p.get("/healthz"); code != 200 {
		t.Error("healthz", code)
	}
}

// TestSoftLimitIsRaised checks what docs/deploy.md says about the soft limit.
func TestSoftLimitIsRaised(t *testing.T) {
	t.Parallel()
	p := launchCommand(t, exec.Command("sh", "-c", "ulimit -Sn 64; ulimit -Hn 200; exec usher"))
	line := p.logged("usher starts")
	if n := line["descriptors"].(float64); n < 199 || n > 200 || line["max_negotiating"].(float64) != float64(int(n)/4) { // Go stays one below
		t.Error(line)
	}
}
