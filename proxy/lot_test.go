package proxy

import (
	"io"
	"log/slog"
	"net"
	"testing"
)

// TestLot: who is put out is drawn by lot, however long they have been in.
func TestLot(t *testing.T) {
	const most, rounds = 256, 256 * 200
	n := negotiators{max: most}
	for range most {
		if out := n.enter(new(session)); out != nil {
			t.Fatal("somebody is put out where there is room")
		}
	}
	newest, next := new(session), 0
	n.enter(newest)
	for range rounds {
		s := new(session)
		if out := n.enter(s); out == newest {
			next++
		}
		newest = s
		if len(n.all) != most {
			t.Fatalf("%d are in, want %d", len(n.all), most)
		}
	}
	if next < 100 || next > 300 { // 200, give or take 14
		t.Errorf("the newest was the next to go in %d of %d rounds, want about one of %d", next, rounds, most)
	}
	for _, s := range append([]*session{new(session)}, n.all...) { // the first was never in
		n.leave(s)
		n.leave(s) // again: it was put out, and ends
	}
	if len(n.all) != 0 {
		t.Errorf("%d are left", len(n.all))
	}
}

// A client that is turned away for want of descriptors, and has sent its
// greeting, gets a clean end: one that is reset may think the server broken.
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
