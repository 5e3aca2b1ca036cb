package proxy

import (
	"log/slog"
	"net"
	"slices"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// failing is a listener that returns its errors one by one; nil stands for a client.
// After the last one it is closed. It records when Accept was called.
type failing struct {
	errors []error
	asked  []time.Time
}

func (l *failing) Accept() (net.Conn, error) {
	l.asked = append(l.asked, time.Now())
	if len(l.errors) == 0 {
		return nil, net.ErrClosed
	}
	err := l.errors[0]
	l.errors = l.errors[1:]
	return new(net.TCPConn), err
}

func (l *failing) Close() error   { return nil }
func (l *failing) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1080} }

// After each failure, accepting pauses longer, up to a second. After a success, the
// first pause is short again.
func TestAcceptBacksOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &Server{opts: Options{Logger: slog.New(slog.DiscardHandler)}, table: newTable(nil)}
		s.table.cut = true // whoever is accepted is sent away
		s.listening.listeners = make(map[net.Listener]struct{})
		full := slices.Repeat([]error{syscall.EMFILE}, 10)
		ln := &failing{errors: append(full, nil, syscall.ECONNABORTED)}
		if err := s.Serve(ln); err != nil {
			t.Fatal(err)
		}
		var pauses []time.Duration
		for i, at := range ln.asked[1:] {
			pauses = append(pauses, at.Sub(ln.asked[i])/time.Millisecond)
		}
		if want := []time.Duration{5, 10, 20, 40, 80, 160, 320, 640, 1000, 1000, 0, 5}; !slices.Equal(pauses, want) {
			t.Errorf("pauses of %d ms, want %d", pauses, want)
		}
	})
}

// The spare descriptor is taken back before another client can have it, whether or not
// a client was turned away with it.
func TestSpareIsTakenBack(t *testing.T) {
	ln := listen(t, "127.0.0.1:0")
	s := &Server{opts: Options{Logger: slog.New(slog.DiscardHandler), Metrics: NewMetrics(nil)}, spare: newSpare()}
	t.Cleanup(s.spare.close)
	for _, comes := range []bool{true, false} {
		if comes {
			client, err := net.Dial("tcp", ln.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
		}
		if shed := s.shed(ln); shed != comes {
			t.Errorf("somebody is turned away: %v, want %v", shed, comes)
		}
		if s.spare.file == nil {
			t.Errorf("the spare descriptor is used, or a client was turned away: %v", comes)
		}
	}
	s.spare.close()
	if s.shed(ln) || s.spare.file != nil {
		t.Error("after the end there is a spare descriptor again")
	}
}
