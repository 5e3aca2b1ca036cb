package logging

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// refuse logs n refused sessions of client.
func refuse(log *slog.Logger, n int, reason, client string) {
	for range n {
		log.Info("session refused", "reason", reason, "client", client+":4711")
	}
}

// counts returns how many lines have all the parts.
func counts(log, parts string) (n int) {
	for line := range strings.Lines(log) {
		all := true
		for part := range strings.FieldsSeq(parts) {
			all = all && strings.Contains(line, part)
		}
		if all {
			n++
		}
	}
	return n
}

func TestBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out gate
		b := newBudget(slog.NewTextHandler(&out, nil), 10, 0)
		log := slog.New(b).With("replica", "a") // shares the budget
		want := func(n int, parts string) {
			t.Helper()
			if got := counts(out.String(), parts); got != n {
				t.Errorf("%d lines with %q, want %d", got, parts, n)
			}
		}
		refuse(log, 1000, "blocked", "192.0.2.1")
		want(100, "msg=\"session reason=blocked client=192.0.2.1:")
		refuse(log, 50, "limit", "192.0.2.1")   // another reason
		refuse(log, 50, "blocked", "192.0.2.2") // another source
		want(50, "reason=limit")
		want(50, "client=192.0.2.2:")
		refuse(log, 60, "blocked", "[2001:db8::1]")
		refuse(log, 60, "blocked", "[2001:db8::2]") // the same /64
		want(100, "client=[2001:db8::")
		for range 500 { // ended sessions have another budget
			log.Info("session ended", "reason", "done", "client", "192.0.2.1:4711")
		}
		want(500, "reason=done")

		time.Sleep(summaryPause + time.Millisecond)
		synctest.Wait()
		want(1, "refused not logged reason=blocked source=192.0.2.1 lines=900")
		want(1, "refused not logged reason=blocked source=2001:db8::/64 lines=20")
		if n := b.dropped(); n != 920 {
			t.Errorf("%d lines dropped, want 920", n)
		}
		refuse(log, 1000, "blocked", "192.0.2.1") // ten seconds later: a full budget
		want(200, "msg=\"session reason=blocked client=192.0.2.1:")
		time.Sleep(time.Second)
		refuse(log, 1000, "blocked", "192.0.2.1")
		want(210, "msg=\"session reason=blocked client=192.0.2.1:")
		b.close()
		want(1, "refused not logged reason=blocked source=192.0.2.1 lines=1890")
	})
}

// Many sources cannot take memory without bound, nor fill the log together; when
// they are gone, their places are free.
func TestBudgetOfManySources(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out gate
		b := newBudget(slog.NewTextHandler(&out, nil), 1, 0)
		log := slog.New(b)
		for i := range 3 * maxBudgets {
			refuse(log, 1, "blocked", fmt.Sprintf("10.%d.%d.1", i>>8, i&255))
		}
		if n := counts(out.String(), "session refused"); n != maxBudgets+burstSeconds {
			t.Errorf("%d lines, want %d", n, maxBudgets+burstSeconds)
		}
		if n := len(b.kinds["session refused"].accounts); n != maxBudgets+1 {
			t.Errorf("%d accounts", n)
		}
		time.Sleep(time.Minute)
		refuse(log, 1, "blocked", "192.0.2.1")
		if n := len(b.kinds["session refused"].accounts); n > 2 {
			t.Errorf("%d accounts are left", n)
		}
		if counts(out.String(), "source=others lines=8182") != 1 {
			t.Error("the rest is not summed up")
		}
		b.close()
	})
}

func TestNoBudget(t *testing.T) {
	var out bytes.Buffer
	refuse(slog.New(newBudget(slog.NewTextHandler(&out, nil), 0, 0)), 1000, "blocked", "192.0.2.1")
	if n := counts(out.String(), "session refused"); n != 1000 {
		t.Errorf("%d lines of 1000", n)
	}
}

// A source that opens sessions and ends them has its lines up to a budget, and the
// rest in a summary with all bytes. Others have theirs.
func TestBudgetOfEndedSessions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out gate
		b := newBudget(slog.NewTextHandler(&out, nil), 1, 20)
		log := slog.New(b)
		end := func(n int, message, client string) {
			for i := range n {
				log.Info(message, "reason", []string{"done", "idle"}[i%2], "client", client+":4711", "bytes_up", int64(2), "bytes_down", int64(5))
			}
		}
		want := func(n int, parts string) {
			t.Helper()
			if got := counts(out.String(), parts); got != n {
				t.Errorf("%d lines with %q, want %d", got, parts, n)
			}
		}
		end(1000, "session ended", "192.0.2.1")
		end(150, "session ended", "192.0.2.2")
		end(210, "session connected", "192.0.2.1")
		want(200, "msg=\"session ended\" client=192.0.2.1:")
		want(150, "msg=\"session ended\" client=192.0.2.2:")
		want(200, "msg=\"session connected\"")
		time.Sleep(summaryPause + time.Millisecond)
		synctest.Wait()
		want(1, "msg=\"ended sessions not logged\" source=192.0.2.1 lines=800 bytes_up=1600 bytes_down=4000")
		want(1, "msg=\"connected sessions not logged\" source=192.0.2.1 lines=10")
		want(2, "not logged")
		if n := b.dropped(); n != 810 {
			t.Errorf("%d lines dropped, want 810", n)
		}
	})
}

// No line of an ordinary client is lost, however many of them there are.
func TestBudgetOfManyClients(t *testing.T) {
	var out gate
	b := newBudget(slog.NewTextHandler(&out, nil), 1, 1)
	log := slog.New(b)
	for i := range 3 * maxBudgets {
		log.Info("session ended", "reason", "done", "client", fmt.Sprintf("10.%d.%d.1:4711", i>>8, i&255))
	}
	if n := counts(out.String(), "session ended"); n != 3*maxBudgets {
		t.Errorf("%d lines of %d", n, 3*maxBudgets)
	}
	if n := len(b.kinds["session ended"].accounts); n > maxBudgets {
		t.Errorf("%d accounts", n)
	}
}
