package accounting

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"usher/cmd/usher/internal/lines"
	"usher/deploy/need"
	"usher/proxy/record"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(need.Summary(m)) }

// sink is a destination that can fail.
type sink struct {
	mu   sync.Mutex
	text bytes.Buffer
	err  error
}

func (s *sink) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return 0, s.err
	}
	return s.text.Write(p)
}

func (s *sink) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

func (s *sink) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// lines parses all lines.
func (s *sink) lines(t *testing.T) (list []map[string]any) {
	t.Helper()
	for text := range strings.Lines(s.String()) {
		var line map[string]any
		if err := json.Unmarshal([]byte(text), &line); err != nil {
			t.Fatalf("%v: %q", err, text)
		}
		list = append(list, line)
	}
	return list
}

func open(t *testing.T, out io.Writer, log io.Writer) *Accounting {
	t.Helper()
	a, err := Open(Options{To: "stdout", Replica: "a", Stdout: out, Logger: slog.New(slog.NewJSONHandler(log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// refusal is that of a client by a full limit.
func refusal(client string, port int) record.End {
	now := time.Now()
	return record.End{
		Session: record.Session{
			ID: fmt.Sprintf("k-%d", port), Generation: "g5-9f31c2ab",
			Client:     netip.AddrPortFrom(netip.MustParseAddr(client), uint16(port)),
			ClientRule: "c1", ClientRuleAt: "sockd.conf:3", Rule: "s2", RuleName: "web", RuleAt: "sockd.conf:7",
			SOCKS: 5, Command: "connect", Target: fmt.Sprintf("192.0.2.80:%d", 80+port%2), Began: now,
		},
		Time: now, Reason: "limit", Refused: true, Error: "session.max: 5",
		Held: &record.Held{Limit: "session.max", Max: 5, Sessions: 5, Here: port},
	}
}

// A session has a line, with the time at which it ended.
func TestLineOfASession(t *testing.T) {
	var out sink
	a := open(t, &out, io.Discard)
	at := time.Date(2026, 3, 4, 5, 6, 7, 8, time.UTC)
	a.Ended()(record.End{
		Session: record.Session{
			ID: "k-1", Generation: "g5-9f31c2ab", Client: netip.MustParseAddrPort("[2001:db8::1]:4711"), User: "a\"b\u202e\x7f<é",
			Rule: "s1", SOCKS: 5, Command: "connect", Target: "192.0.2.80:80", Began: at.Add(-time.Second), Seconds: 1, BytesUp: 3, BytesDown: 4,
		},
		Time: at, Reason: "done",
	})
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	const want = `{"time":"2026-03-04T05:06:07.000000008Z","event":"ended","count":1,"session":"k-1","replica":"a","generation":"g5-9f31c2ab",` +
		`"client":"[2001:db8::1]:4711","user":"a\"b\u202e\u007f<é","rule":"s1","socks":5,"command":"connect","target":"192.0.2.80:80",` +
		`"began":"2026-03-04T05:06:06.000000008Z","seconds":1,"bytes_up":3,"bytes_down":4,"reason":"done"}` + "\n"
	if got := out.String(); got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
}

// A client that is refused 10000 times a second has eleven lines a second: ten of its
// own, and one with the number of the others. The sum is exact.
func TestFloodOfRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out sink
		a := open(t, &out, io.Discard)
		const seconds, each = 5, 10_000
		for range seconds {
			for port := range each {
				a.ended(refusal("192.0.2.1", port))
			}
			time.Sleep(time.Second)
			synctest.Wait()
		}
		a.ended(refusal("192.0.2.2", 1)) // a client that is no part of it
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
		list := out.lines(t)
		if want := seconds*11 + 1; len(list) != want {
			t.Errorf("%d lines, want %d", len(list), want)
		}
		if size := len(out.String()); size > seconds*11*600 {
			t.Errorf("%d bytes", size)
		}
		refused := 0
		for _, line := range list {
			refused += int(line["count"].(float64))
		}
		if want := seconds*each + 1; refused != want {
			t.Errorf("the lines count %d refusals, want %d", refused, want)
		}
		sum := list[10]
		for key, want := range map[string]any{
			"event": "refused", "count": 9990.0, "replica": "a", "reason": "limit", "source": "192.0.2.1", "generation": "g5-9f31c2ab",
			"rule": "s2", "rule_name": "web", "rule_at": "sockd.conf:7", "client_rule": "c1", "command": "connect", "error": "session.max: 5",
			"client": nil, "session": nil, "target": nil, "began": nil, "bytes_up": nil,
		} {
			if sum[key] != want {
				t.Errorf("%s of the sum is %v, want %v", key, sum[key], want)
			}
		}
		if here := sum["held"].(map[string]any)["here"]; here != 9999.0 {
			t.Errorf("held.here is %v, want that of the last refusal", here)
		}
		if last := list[len(list)-1]; last["client"] != "192.0.2.2:1" {
			t.Errorf("the client that is no part of it: %v", last)
		}
	})
}

// The lines about refusals of very many sources have a bound, too. So has their memory,
// and it is free after the second.
func TestFloodOfManySources(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out sink
		a := open(t, &out, io.Discard)
		const sources, each = 1000, 12
		for i := range sources {
			for port := range each {
				a.ended(refusal(fmt.Sprintf("10.%d.%d.1", i>>8, i&255), port))
			}
		}
		a.mu.Lock()
		if n := len(a.second.seen); n > mostSources+1 {
			t.Errorf("%d sums", n)
		}
		a.mu.Unlock()
		time.Sleep(time.Second)
		synctest.Wait()
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
		list := out.lines(t)
		if n := len(list); n != mostAlone+mostSources+1 {
			t.Errorf("%d lines, want %d", n, mostAlone+mostSources+1)
		}
		refused, others := 0, 0
		for _, line := range list {
			n := int(line["count"].(float64))
			refused += n
			if line["client"] == nil && line["source"] == nil {
				others += n
			}
		}
		if refused != sources*each || others != (sources-mostSources)*each {
			t.Errorf("%d refusals and %d of them of other sources, want %d and %d", refused, others, sources*each, (sources-mostSources)*each)
		}
		if a.second.seen != nil {
			t.Error("the sums take memory after their second")
		}
	})
}

// A sum of one refusal is the line of that session.
func TestSumOfOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out sink
		a := open(t, &out, io.Discard)
		for port := range aloneEach + 1 {
			a.ended(refusal("2001:db8::1", port))
		}
		for port := range aloneEach + 2 {
			a.ended(refusal("2001:db8:0:1::1", port))
		}
		if err := a.Close(); err != nil { // which ends the second
			t.Fatal(err)
		}
		list := out.lines(t)
		if len(list) != 2*aloneEach+2 {
			t.Fatalf("%d lines", len(list))
		}
		if one := list[2*aloneEach]; one["session"] != "k-10" || one["client"] != "[2001:db8::1]:10" || one["count"] != 1.0 {
			t.Errorf("the sum of one: %v", one)
		}
		if two := list[2*aloneEach+1]; two["source"] != "2001:db8:0:1::/64" || two["count"] != 2.0 {
			t.Errorf("the sum of two: %v", two)
		}
	})
}

// What differs among refusals is no part of their sum.
func TestSumHasWhatIsCommon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out sink
		a := open(t, &out, io.Discard)
		for i := range aloneEach + 3 {
			end := refusal("192.0.2.1", 2*i)
			end.User = []string{"ann", "bob"}[i%2]
			a.ended(end)
			time.Sleep(time.Millisecond)
		}
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
		sum := out.lines(t)[aloneEach]
		if sum["user"] != nil || sum["target"] != "192.0.2.80:80" || sum["count"] != 3.0 {
			t.Errorf("%v", sum)
		}
		from, errFrom := time.Parse(time.RFC3339Nano, sum["from"].(string))
		until, errUntil := time.Parse(time.RFC3339Nano, sum["until"].(string))
		if err := errors.Join(errFrom, errUntil); err != nil || until.Sub(from) != 2*time.Millisecond {
			t.Errorf("from %v until %v, %v", from, until, err)
		}
	})
}

// Lines are in the order of their time, whichever session reports first. Ended
// sessions are never summed up.
func TestOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out sink
		a := open(t, &out, io.Discard)
		var sessions sync.WaitGroup
		const each = 100
		for client := range 8 {
			sessions.Go(func() {
				for i := range each {
					now := time.Now()
					a.ended(record.End{Session: record.Session{ID: fmt.Sprint(client), Began: now}, Time: now.Add(time.Duration(i%7) * -time.Millisecond), Reason: "done"})
					end := refusal(fmt.Sprintf("192.0.2.%d", client), i)
					a.ended(end)
					time.Sleep(10 * time.Millisecond)
				}
			})
		}
		sessions.Wait()
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
		var before time.Time
		counts := map[any]int{}
		for _, line := range out.lines(t) {
			at, err := time.Parse(time.RFC3339Nano, line["time"].(string))
			if err != nil || at.Before(before) {
				t.Fatalf("%v after %v, %v", at, before, err)
			}
			before = at
			counts[line["event"]] += int(line["count"].(float64))
		}
		if counts["ended"] != 8*each || counts["refused"] != 8*each {
			t.Errorf("%v, want %d of each", counts, 8*each)
		}
	})
}

// Lines that were not written are counted, a sum as one, and the log mentions them once.
func TestDropsAreReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out, log sink
		a := open(t, &out, &log)
		out.fail(errors.New("no space left on device"))
		a.ended(refusal("192.0.2.1", 1))
		a.ended(refusal("192.0.2.1", 2))
		time.Sleep(3 * dropReportPause)
		synctest.Wait()
		if n := a.Dropped(); n != 2 {
			t.Errorf("%d lines dropped, want 2", n)
		}
		for port := range aloneEach + 5 { // a sum is one line, as docs say
			a.ended(refusal("192.0.2.2", port))
		}
		time.Sleep(3 * dropReportPause)
		synctest.Wait()
		if n := a.Dropped(); n != 2+aloneEach+1 {
			t.Errorf("%d lines dropped, want %d", n, 2+aloneEach+1)
		}
		out.fail(nil)
		a.ended(refusal("192.0.2.1", 3))
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
		if n := len(out.lines(t)); n != 1 {
			t.Errorf("%d lines, want 1", n)
		}
		if text := log.String(); strings.Count(text, "\n") != 2 || !strings.Contains(text, `"msg":"accounting lines dropped","lines":2,"destination":"stdout"`) {
			t.Errorf("the log:\n%s", text)
		}
	})
}

// Without a destination, nothing is asked for and nothing runs.
func TestNowhere(t *testing.T) {
	a, err := Open(Options{})
	if err != nil {
		t.Fatal(err)
	}
	if a.Ended() != nil {
		t.Error("it wants to know what ended")
	}
	a.Reopen()
	a.Flush()
	if n := a.Dropped(); n != 0 {
		t.Errorf("%d lines dropped", n)
	}
	if err := a.Close(); err != nil {
		t.Error(err)
	}
}

// A file that cannot be opened is an error that names the variable and the remedy.
func TestOpenFails(t *testing.T) {
	_, err := Open(Options{To: t.TempDir() + "/nowhere/file"})
	if err == nil || !strings.HasPrefix(err.Error(), "USHER_ACCOUNTING: ") || !strings.Contains(err.Error(), "; name a file that usher can write, or stdout") {
		t.Errorf("error %v", err)
	}
}

// Neither a line nor a refusal that is summed up takes memory of its own.
func TestLinesAreCheap(t *testing.T) {
	a := open(t, io.Discard, io.Discard)
	end := refusal("192.0.2.1", 1)
	for range 2 * aloneEach {
		a.ended(end)
	}
	if n := testing.AllocsPerRun(1000, func() { a.second.alone(&end) }); n != 0 {
		t.Errorf("%v allocations for a refusal", n)
	}
	end.Held = nil
	var l line
	if n := testing.AllocsPerRun(1000, func() { l.session(&end, "web1", end.Time) }); n != 0 {
		t.Errorf("%v allocations for a line", n)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
}

func BenchmarkEnded(b *testing.B) {
	for _, refused := range []bool{false, true} {
		b.Run(map[bool]string{false: "session", true: "refusal of a flood"}[refused], func(b *testing.B) {
			var a Accounting
			a.second.over = a.endSecond
			a.queue = lines.NewQueue(io.Discard, nil)
			end := refusal("192.0.2.1", 4711)
			end.Refused, end.Held = refused, nil
			b.ReportAllocs()
			for n := 0; b.Loop(); n++ {
				if a.ended(end); n%1000 == 0 {
					a.queue.Flush(time.Minute) // so that no line is dropped, which costs less
				}
			}
			a.endSecond()
			a.queue.Close(time.Minute)
		})
	}
}
