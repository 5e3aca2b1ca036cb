package integration

import (
	"bytes"
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

// impostor stands between a replica and its Redis. It passes everything on, until it is
// told to answer itself.
type impostor struct {
	ln      net.Listener
	redis   string
	running sync.WaitGroup

	mu    sync.Mutex
	reply string // to a script or to INFO, if not empty
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
		p.mu.Lock()
		for c := range p.links {
			c.Close()
		}
		p.mu.Unlock()
		p.running.Wait()
	})
	return p
}

// answer chooses the reply to scripts and INFO from now on, also on open connections.
// With "", Redis answers.
func (p *impostor) answer(reply string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.reply = reply
}

// to returns the hostile reply to a request, or "" if Redis is to answer.
func (p *impostor) to(request []byte) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if r := bytes.ToUpper(request); bytes.Contains(r, []byte("\r\nEVALSHA\r\n")) || bytes.Contains(r, []byte("\r\nINFO\r\n")) {
		return p.reply
	}
	return ""
}

// link remembers a connection so that the end of the test closes it, or forgets it.
func (p *impostor) link(c net.Conn, open bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if open {
		p.links[c] = struct{}{}
	} else {
		c.Close()
		delete(p.links, c)
	}
}

// serve takes the bytes of one read as one request, because a replica has one request
// in flight.
func (p *impostor) serve(c net.Conn) {
	p.link(c, true)
	defer p.link(c, false)
	redis, err := net.Dial("tcp", p.redis)
	if err != nil {
		return
	}
	p.link(redis, true)
	defer p.link(redis, false)
	p.running.Go(func() {
		io.Copy(c, redis) //nolint:errcheck // the connection ended, one way or another
		c.Close()
	})
	request := make([]byte, 1<<20)
	for {
		n, err := c.Read(request)
		if err != nil {
			return
		}
		if reply := p.to(request[:n]); reply != "" {
			_, err = io.WriteString(c, reply)
		} else {
			_, err = redis.Write(request[:n])
		}
		if err != nil {
			return
		}
	}
}

// TestAttackStore takes over the connection between a running replica and its Redis.
// Whatever it answers: the replica does not crash, it serves sessions without a limit,
// and it refuses those with a limit as during an outage. The log has the answers only
// as short, printable text. When the attack is over, sessions with a limit are served
// again.
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
			var held answer
			eventually(t, patience, func() string { // a busy machine may take longer than USHER_STORE_WAIT
				if held = limited.connect(a.limited.String()); held.reply != granted {
					return fmt.Sprintf("before the attack: reply %d, %v", held.reply, held.err)
				}
				return ""
			})
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
