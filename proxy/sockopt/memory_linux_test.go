package sockopt

import (
	"net"
	"testing"
)

// What a peer has sent and nobody reads takes memory, and so does what nobody takes.
func TestMemory(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	out, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	in, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	memory := func(c net.Conn) int64 {
		t.Helper()
		n, err := Memory(c.(*net.TCPConn))
		if err != nil || n < 0 || n > 1<<20 {
			t.Fatalf("%d bytes, %v", n, err)
		}
		return n
	}
	before := memory(in) + memory(out)
	const size = 40000
	if _, err := out.Write(make([]byte, size)); err != nil {
		t.Fatal(err)
	}
	if after := memory(in) + memory(out); after < before+size {
		t.Errorf("%d bytes before %d are sent, and %d after it", before, size, after)
	}
	if all, ok := MachineMemory(); !ok || all < 0 {
		t.Errorf("%d bytes for the machine, %v", all, ok)
	}
	in.Close()
	if n, err := Memory(in.(*net.TCPConn)); err == nil || n != 0 {
		t.Errorf("%d bytes, %v for a closed connection", n, err)
	}
}
