package need

import (
	"fmt"
	"math/rand/v2"
	"net"
	"runtime"
	"sync"
	"testing"
)

// Ports that Port hands out. They lie below those that Linux gives to sockets
// that ask for none, so that no other socket gets one by chance before it is used.
// Packages are tested at the same time: each process takes a block for itself.
const firstPort, blocks, blockSize = 20_000, 60, 200

var ports struct {
	mu        sync.Mutex
	next, end int
	claims    []net.Listener // held until the process ends
}

// The first block is taken before any test counts descriptors.
func init() { claim() }

// Port returns a TCP port at which nobody listens, on any address. The process
// gets each port once.
func Port(t testing.TB) int {
	t.Helper()
	for range 1000 {
		port := nextPort()
		ln, err := net.Listen("tcp4", fmt.Sprintf("0.0.0.0:%d", port))
		if err != nil {
			continue
		}
		ln.Close()
		return port
	}
	t.Fatal("no port is free")
	return 0
}

func nextPort() int {
	ports.mu.Lock()
	defer ports.mu.Unlock()
	if ports.next == ports.end {
		claim()
	}
	ports.next++
	return ports.next - 1
}

// claim takes a block that no other process has. If there is none, or the system
// has no abstract names, it takes one that others may have as well. An abstract name
// of a Unix socket belongs to a network namespace, as a port does.
func claim() {
	block := rand.IntN(blocks)
	for range blocks {
		if runtime.GOOS != "linux" {
			break
		}
		if ln, err := net.Listen("unix", nameOf(block)); err == nil {
			ports.claims = append(ports.claims, ln)
			break
		}
		block = (block + 1) % blocks
	}
	ports.next = firstPort + block*blockSize
	ports.end = ports.next + blockSize
}

func nameOf(block int) string { return fmt.Sprintf("@usher-test-ports-%d", block) }
