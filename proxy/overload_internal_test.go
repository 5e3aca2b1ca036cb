package proxy

import (
	"io"
	"log/slog"
	"net"
	"testing"
)

// A client that has sent its greeting and is closed for lack of descriptors gets a
// clean end. After a reset, it may think that the server is broken.
func TestShedIsNoReset(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	s := &Server{opts: Options{Logger: slog.New(slog.DiscardHandler), Metrics: NewMetrics(nil)}, spare: newSpare()}
	t.Cleanup(s.spare.close)
	client, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	if _, err := client.Write([]byte{5, 1, 0}); err != nil {
		t.Fatal(err)
	}
	if !s.shed(ln) {
		t.Fatal("nobody is turned away")
	}
	if b, err := io.ReadAll(client); len(b) > 0 || err != nil {
		t.Errorf("%q, %v; want a clean end", b, err)
	}
}
