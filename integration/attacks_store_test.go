package integration

import (
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"sync"
	"testing"
	"unicode"

	"usher/store/redisstore/redistest"
)

// impostor stands between a replica and its Redis. It passes everything on,
// until it is told to answer requests by itself.
type impostor struct {
	ln      net.Listener
	redis   string
	running sync.WaitGroup

	mu    sync.Mutex
	reply string // to each request, if not empty
	links map[net.Conn]struct{}
}

func startImpostor(t testing.TB, redis string) *impostor {
	t.Helper()
	p := &impostor{ln: redistest.Loopback(t), redis: redis, links: map[net.Conn]struct{}{}}
	p.running.Go(func() {
		for {
			c, err := p.ln.Accept()
			if err != nil {
				return
			}
			p.running.Go(func() { p.serve(c) })
		}
	})
	t.Cleanup(func() {
		p.ln.Close()
		p.answer("")
		p.running.Wait()
	})
	return p
}

// answer ends all connections, and answers the requests of those that follow
// with reply; "" is what Redis answers.
func (p *impostor) answer(reply string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.reply = reply
	for c := range p.links {
		c.Close()
	}
}

// add keeps c for answer, and returns the reply in force.
func (p *impostor) add(c net.Conn) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.links[c] = struct{}{}
	return p.reply
}

func (p *impostor) remove(c net.Conn) {
	c.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.links, c)
}

func (p *impostor) serve(c net.Conn) {
	reply := p.add(c)
	defer p.remove(c)
	if reply != "" {
		request := make([]byte, 1<<16)
		for {
			if _, err := c.Read(request); err != nil {
				return
			}
			if _, err := io.WriteString(c, reply); err != nil {
				return
			}
		}
	}
	redis, err := net.Dial("tcp", p.redis)
	if err != nil {
		return
	}
	p.add(redis)
	defer p.remove(redis)
	p.running.Go(func() {
		io.Copy(c, redis) //nolint:errcheck // the connection ended, one way or another
		c.Close()
	})
	io.Copy(redis, c) //nolint:errcheck // likewise
}

// TestAttackStore takes over the way between a running replica and its Redis.
// Whatever it answers, the replica lives, sessions without a limit are served,
// and those with a limit are refused as during an outage. No answer reaches the
// log but as a short, printable line. When the attack is over, all is well again.
func TestAttackStore(t *testing.T) {
	redis := redistest.Start(t)
	where, err := url.Parse(redis.URL())
	if err != nil {
		t.Fatal(err)
	}
	store := startImpostor(t, where.Host)
	a := newAttack(t, options{rules: standard(5), env: map[string]string{
		"USHER_STORE": "redis://" + store.ln.Addr().String(), "USHER_STORE_WAIT": "100ms",
	}})
	memory := a.r.metrics(t).sum("process_resident_memory_bytes")
	limited := client{proxy: a.r.socks}
	for name, reply := range map[string]string{
		"huge bulk":       "$4611686018427387904\r\n",
		"huge array":      "*4611686018427387904\r\n",
		"many elements":   "*2000000000\r\n",
		"100 GB":          "$100000000000\r\n",
		"negative length": "$-9223372036854775808\r\n",
		"huge map":        "%4611686018427387904\r\n",
		"deep":            strings.Repeat("*1\r\n", 100_000),
		"no end of line":  "+" + strings.Repeat("x", 1<<20),
		"terminal":        "-ERR \x1b[2J\x07\u202e\u200b\x7f\u0085" + strings.Repeat("y", 50_000) + "\r\n",
		"not Redis":       "HTTP/1.1 400 Bad Request\r\n\r\n",
		"nothing":         "\x00",
		"pushes":          strings.Repeat(">2\r\n+a\r\n+b\r\n", 1000),
		"nil":             "_\r\n",
		"wrong type":      "*3\r\n:1\r\n%1\r\n+a\r\n$-1\r\n(99999999999999999999\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			held := limited.connect(a.limited.String())
			if held.reply != granted {
				t.Fatalf("before the attack: reply %d, %v", held.reply, held.err)
			}
			defer held.Close()
			failed := a.r.metrics(t).sum("usher_store_errors_total")
			store.answer(reply)
			eventually(t, patience, func() string {
				if n := a.r.metrics(t).sum("usher_store_errors_total") - failed; n < 3 {
					return fmt.Sprintf("%v requests to the store have failed, want 3", n)
				}
				return ""
			})
			a.honest()
			if !held.relays() {
				t.Error("a session that was admitted before ended")
			}
			if got := limited.connect(a.limited.String()); got.reply != failure {
				t.Errorf("a session with a limit: reply %d, %v, want %d", got.reply, got.err, failure)
			}
			store.answer("")
			a.waitReady()
			held.Close()
			a.over()
		})
	}
	if now := a.r.metrics(t).sum("process_resident_memory_bytes"); now > memory+128<<20 {
		t.Errorf("the replica takes %v bytes of memory, %v before", now, memory)
	}
	for line := range strings.Lines(a.r.proc.out.String()) {
		line = strings.TrimSuffix(line, "\n")
		if len(line) > 2000 || strings.ContainsFunc(line, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Errorf("a log line of %d bytes: %.300q", len(line), line)
		}
	}
}
