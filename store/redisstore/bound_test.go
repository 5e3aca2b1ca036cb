package redisstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"usher/store"
	"usher/store/limit"
)

// chunks is a connection that gives its data in pieces.
type chunks struct {
	net.Conn
	io.Reader
}

func (c chunks) Read(p []byte) (int, error)  { return c.Reader.Read(p) }
func (c chunks) Write(p []byte) (int, error) { return len(p), nil }
func (c chunks) Close() error                { return nil }

func (c chunks) SetDeadline(time.Time) error      { return nil }
func (c chunks) SetReadDeadline(time.Time) error  { return nil }
func (c chunks) SetWriteDeadline(time.Time) error { return nil }
func (c chunks) RemoteAddr() net.Addr             { return &net.TCPAddr{} }

// bound passes replies through the bound, read by read.
func bound(r io.Reader) (passed []byte, err error) {
	return io.ReadAll(&boundedConn{Conn: chunks{Reader: r}})
}

// legitimate are replies as servers give them, in both protocols.
var legitimate = map[string]string{
	"simple":      "+OK\r\n-ERR no\r\n:-12\r\n_\r\n,1.5\r\n#t\r\n(123456789012345678901234567890\r\n+\r\n",
	"strings":     "$0\r\n\r\n$3\r\na\r\n\r\n=7\r\ntxt:abc\r\n!5\r\nERR x\r\n$-1\r\n",
	"aggregates":  "*0\r\n*-1\r\n*2\r\n:1\r\n*1\r\n$1\r\na\r\n%1\r\n+k\r\n*0\r\n~1\r\n:1\r\n>2\r\n+p\r\n:1\r\n%0\r\n",
	"a header":    "$22\r\n*4611686018427387904\r\n\r\n",
	"longest":     "+" + strings.Repeat("x", maxLine-3) + "\r\n",
	"largest":     fmt.Sprintf("$%d\r\n%s\r\n", 1<<20-12, strings.Repeat("\n", 1<<20-12)),
	"many":        "*250000\r\n" + strings.Repeat(":1\r\n", 150000) + strings.Repeat("_\r\n", 100000),
	"nested":      strings.Repeat("*1\r\n", maxNesting) + ":1\r\n",
	"one by one":  strings.Repeat("$700000\r\n"+strings.Repeat("x", 700000)+"\r\n", 3),
	"cluster":     clusterSlots(1000),
	"members":     members(5000),
	"batch of 64": batchReply(store.MaxEntries),
}

// clusterSlots is the answer of a cluster with this number of primaries, each with a
// replica, with the longest possible names and addresses.
func clusterSlots(n int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "*%d\r\n", n)
	node := fmt.Sprintf("*4\r\n$100\r\n%s\r\n:6379\r\n$40\r\n%s\r\n%%1\r\n$2\r\nip\r\n$39\r\n%s\r\n",
		strings.Repeat("h", 100), strings.Repeat("a", 40), strings.Repeat("f", 39))
	for i := range n {
		fmt.Fprintf(&b, "*4\r\n:%d\r\n:%d\r\n%s%s", 16384/n*i, 16384/n*(i+1)-1, node, node)
	}
	return b.String()
}

// members is the answer to Observe with this number of replicas.
func members(n int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%%%d\r\n", n)
	for i := range n {
		name := fmt.Sprintf("@%032x", i)
		token := fmt.Sprintf("%032x:%d:%d ok %064x", i, 1<<40, 1<<50, i)
		fmt.Fprintf(&b, "$%d\r\n%s\r\n$%d\r\n%s\r\n", len(name), name, len(token), token)
	}
	return b.String()
}

// batchReply is the answer to a batch of n entries with rates.
func batchReply(n int) string {
	return fmt.Sprintf("*%d\r\n$2\r\nOK\r\n", 3+6*n) + strings.Repeat(":9223372036854775807\r\n", 2+6*n)
}

func TestLegitimateRepliesPass(t *testing.T) {
	for name, text := range legitimate {
		for reader, r := range map[string]io.Reader{
			"whole": strings.NewReader(text), "by halves": iotest.HalfReader(strings.NewReader(text)),
			"byte by byte": iotest.OneByteReader(strings.NewReader(text)),
		} {
			if passed, err := bound(r); err != nil || string(passed) != text {
				t.Errorf("%s, %s: %d of %d bytes passed, %v", name, reader, len(passed), len(text), err)
			}
		}
	}
}

// hostile are replies that must not reach the library.
var hostile = map[string]struct {
	text string
	want error
}{
	"string of 2^62":       {"$4611686018427387904\r\n", errReplySize},
	"string of 2^64":       {"$18446744073709551616\r\n", errReplySize},
	"string of 100 GB":     {"$100000000000\r\n", errReplySize},
	"error of 100 GB":      {"!100000000000\r\n", errReplySize},
	"verbatim of 100 GB":   {"=100000000000\r\n", errReplySize},
	"array of 2^62":        {"*4611686018427387904\r\n", errReplySize},
	"array of 2e9":         {"*2000000000\r\n", errReplySize},
	"map of 2^62":          {"%4611686018427387904\r\n", errReplySize},
	"set of 2e9":           {"~2000000000\r\n", errReplySize},
	"push of 2e9":          {">2000000000\r\n", errReplySize},
	"attribute of 2e9":     {"|2000000000\r\n", errReplyForm},
	"attributes":           {"|1\r\n+a\r\n|1\r\n", errReplyForm},
	"just too large":       {"$1048575\r\n", errReplySize},
	"arrays of arrays":     {"*170000\r\n*170000\r\n*170000\r\n", errReplySize},
	"many that add up":     {"*3\r\n" + strings.Repeat("$500000\r\n"+strings.Repeat("x", 500000)+"\r\n", 3), errReplySize},
	"lines that add up":    {"*40\r\n" + strings.Repeat("+"+strings.Repeat("x", 60000)+"\r\n", 40), errReplySize},
	"nested":               {strings.Repeat("*1\r\n", maxNesting+1), errReplyNest},
	"a line without end":   {"+" + strings.Repeat("x", maxLine), errReplyLine},
	"a length without end": {"$" + strings.Repeat("0", maxLine), errReplyLine},
	"padded length":        {"$" + strings.Repeat("0", 60) + "4611686018427387904\r\n", errReplyForm},
	"signed length":        {"$+5\r\n", errReplyForm},
	"negative length":      {"$-2\r\n", errReplyForm},
	"negative map":         {"%-1\r\n", errReplyForm},
	"no length":            {"*\r\n", errReplyForm},
	"streamed":             {"$?\r\n", errReplyForm},
	"another protocol":     {"HTTP/1.1 400 Bad Request\r\n\r\n", errReplyForm},
	"no carriage return":   {"+OK\n", errReplyForm},
	"an empty line":        {"\r\n", errReplyForm},
}

func TestHostileRepliesDoNotPass(t *testing.T) {
	for name, h := range hostile {
		passed, err := bound(iotest.OneByteReader(strings.NewReader(h.text)))
		if !errors.Is(err, h.want) || bytes.HasSuffix(passed, []byte("\n")) && len(passed) == len(h.text) {
			t.Errorf("%s: %q passed, %v; want %v", name, passed[:min(60, len(passed))], err, h.want)
		}
	}
}

// FuzzBound: replies pass unchanged, the verdict does not depend on where the data is
// cut, and a header that announces too much never passes completely.
func FuzzBound(f *testing.F) {
	for _, text := range legitimate {
		f.Add([]byte(text[:min(len(text), 4096)]), uint16(1))
	}
	for _, h := range hostile {
		f.Add([]byte(h.text[:min(len(h.text), 4096)]), uint16(3))
	}
	f.Fuzz(func(t *testing.T, data []byte, at uint16) {
		whole, wholeErr := bound(bytes.NewReader(data))
		cut := int(at) % (len(data) + 1)
		for name, r := range map[string]io.Reader{
			"cut":          io.MultiReader(bytes.NewReader(data[:cut]), bytes.NewReader(data[cut:])),
			"byte by byte": iotest.OneByteReader(bytes.NewReader(data)),
		} {
			passed, err := bound(r)
			if !bytes.HasPrefix(data, passed) || err == nil && len(passed) != len(data) {
				t.Errorf("%s: %q passed of %q", name, passed, data)
			}
			if fmt.Sprint(err) != fmt.Sprint(wholeErr) {
				t.Errorf("%s: %v, in one piece %v", name, err, wholeErr)
			}
		}
		if wholeErr == nil && !bytes.Equal(whole, data) {
			t.Errorf("%q passed of %q", whole, data)
		}
	})
}

// FuzzReplies lets a server answer anything to all requests of the store. No answer
// causes a panic, or takes memory just by announcing a length.
func FuzzReplies(f *testing.F) {
	ordinary := "%0\r\n$25\r\nredis_version:7.0.15\r\n\r\n\r\n$18\r\nmaster_replid:a\r\n\r\n\r\n"
	for _, text := range legitimate {
		f.Add([]byte(text[:min(len(text), 4096)]))
		f.Add([]byte("%0\r\n" + text[:min(len(text), 4096)]))
	}
	for _, h := range hostile {
		f.Add([]byte(h.text[:min(len(h.text), 4096)]))
		f.Add([]byte(ordinary + h.text[:min(len(h.text), 4096)]))
	}
	f.Add([]byte(ordinary + "*2\r\n-ERR in an array\r\n$25\r\n*4611686018427387904\r\n:1\r\n\r\n" + ordinary))
	f.Fuzz(func(t *testing.T, data []byte) {
		for name, ask := range questions {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			l := (&location{}).over(chunks{Reader: bytes.NewReader(data)}, "fuzz", "", "", 0)
			ask(t.Context(), l)
			l.Close()
			runtime.ReadMemStats(&after)
			if spent := after.TotalAlloc - before.TotalAlloc; spent > 64<<20 {
				t.Errorf("%s costs %d bytes", name, spent)
			}
		}
	})
}

// questions are all requests of the store to servers.
var questions = map[string]func(context.Context, *link){
	"shard": func(ctx context.Context, l *link) {
		c := &conn{link: l, keys: keysOf("fuzz", 0), locator: fixed("")}
		if c.identify(ctx) != nil {
			return
		}
		e := store.Entry{Counter: "s/r/k", Max: 1, RuleMax: 1, Need: 1, Rate: limit.Rate{N: 1, Per: 1}}
		for range 3 {
			_, _ = c.Join(ctx, store.Join{Replica: "h", Entries: []store.Entry{e}})
			_, _ = c.Batch(ctx, store.Batch{Replica: "h", Entries: []store.Entry{e, e}})
			_, _ = c.Observe(ctx, []string{"a", "b"})
			_, _ = c.Expire(ctx, store.Expire{Target: "h"})
			_, _ = c.EndRecovery(ctx, store.EndRecovery{})
		}
	},
	"sentinel": func(ctx context.Context, l *link) {
		s := &sentinels{master: "m", peers: []*peer{answered(l)}}
		_, _, _ = s.primary(ctx)
	},
	"cluster": func(ctx context.Context, l *link) {
		n := &nodes{seen: map[string]*peer{}, seeds: []*peer{answered(l)}}
		_, _ = n.askAll(ctx, n.seeds, 1)
	},
	"check": func(ctx context.Context, l *link) {
		_, _ = l.redis.Info(ctx).Result()
		_, _ = l.redis.ConfigGet(ctx, "min-replicas-*").Result()
	},
}

// answered is a peer that has this connection and gets no other one.
func answered(l *link) *peer {
	p := newPeer("127.0.0.1:1", func(context.Context, string) (*link, error) { return nil, errBroken })
	p.link = l
	return p
}

// TestAnnouncedBytesAddUp: the parts of a reply cannot announce more together than a
// reply may have.
func TestAnnouncedBytesAddUp(t *testing.T) {
	for n, want := range map[int]error{2: nil, 1000: nil, 50000: errReplySize} {
		text := strings.Repeat(fmt.Sprintf("*%d\r\n", n), maxNesting) + strings.Repeat(":1\r\n", 1<<19)
		if _, err := bound(strings.NewReader(text)); !errors.Is(err, want) {
			t.Errorf("arrays of %d in each other: %v, want %v", n, err, want)
		}
	}
}
