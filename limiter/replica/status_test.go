package replica

import (
	"testing"
	"time"

	"usher/store"
)

// TestStatusAfterAPause: a replica that was paused for longer than its lease says that it
// is not joined from the moment it runs again, also before it has noticed the pause.
func TestStatusAfterAPause(t *testing.T) {
	m := newMachine(false)
	for range 2 {
		switch r := m.Next(time.Second); r.Op {
		case Dial:
			m.Handle(time.Second, r, Outcome{})
		case Join:
			m.Handle(time.Second, r, Outcome{Join: store.JoinReply{Status: store.Joined}})
		default:
			t.Fatalf("it sends %s", r.Op)
		}
	}
	end := time.Second + m.LeaseTime()
	for _, c := range []struct {
		at   time.Duration
		want bool
	}{{time.Second, true}, {end - 1, true}, {end, false}, {2 * end, false}} {
		if got := m.Status(c.at).Joined; got != c.want {
			t.Errorf("at %v, with a lease until %v: joined is %v", c.at, end, got)
		}
	}
	if unleased := New("h", store.Settings{TTL: time.Second}, false, newID); unleased.Status(0).Joined {
		t.Error("it is joined before it has joined")
	}
}
