package need

import (
	"fmt"
	"math/rand/v2"
	"net"
	"sync/atomic"
	"testing"
)

// Ports that Port hands out. They lie below those that Linux gives to sockets
// that ask for none, so that no other socket gets one by chance before it is used.
const firstPort, ports = 20_000, 12_000

// nextPort is where Port looks next. It starts somewhere else in each process,
// because packages are tested at the same time.
var nextPort atomic.Int64

func init() { nextPort.Store(rand.Int64N(ports)) }

// Port returns a TCP port at which nobody listens, on any address. The process
// gets each port once.
func Port(t testing.TB) int {
	t.Helper()
	for range 1000 {
		port := firstPort + int(nextPort.Add(1)%ports)
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
