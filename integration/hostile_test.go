package integration

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

// dialogue is a good negotiation up to the request, as bytes on the wire. Each has its
// own client, and a client-rule with one slot for it. So if a connection does not
// release its slot, the next one fails.
type dialogue struct {
	name     string
	from     netip.Addr
	balancer bool   // sent begins with a PROXY header that names from
	sent     string // all messages of the client
	keep     string // the part of sent that is never garbled
	answer   string // the messages of the proxy up to the first reply; ? is any byte
	peer     bool   // the first reply says where the peer must connect; the peer echoes
	last     string // what follows: a second reply, and what the echo sends back
}

// dialogues are a negotiation in each version, method, address type and command,
// some of them also behind a PROXY header of each version.
func dialogues(target endpoint) []dialogue {
	request := string(connectRequest(target.String()))
	port := request[len(request)-2:]
	const (
		granted4 = "\x00\x5a??????"
		granted5 = "\x05\x00\x00\x01??????"
	)
	// A garbled name would be looked up on the Internet. A client that sends wrong
	// passwords too often is refused for a while.
	const (
		name4 = "\x00\x00\x00\x01\x00localhost\x00"
		name5 = "\x03\x09localhost"
		login = "\x01\x02jo\x05pw-jo"
	)
	const (
		mapped   = "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\x7f\x00\x00\x01"
		bind     = "\x05\x02\x00\x01\x7f\x00\x00\x01\x00\x00"
		bind4    = "\x04\x02\x00\x00\x7f\x00\x00\x01fred\x00"
		udp      = "\x05\x03\x00\x01\x00\x00\x00\x00\x00\x00"
		udp6     = "\x05\x03\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
		greeting = "\x05\x01\x00"
	)
	all := []dialogue{
		{name: "SOCKS 4", sent: "\x04\x01" + port + "\x7f\x00\x00\x01fred\x00", answer: granted4, last: early},
		{name: "SOCKS 4a", sent: "\x04\x01" + port + name4, keep: name4, answer: granted4, last: early},
		{name: "SOCKS 5", sent: greeting + request, answer: "\x05\x00" + granted5, last: early},
		{name: "SOCKS 5 with a name", sent: "\x05\x02\x00\x01\x05\x01\x00" + name5 + port, keep: name5, answer: "\x05\x00" + granted5, last: early},
		{name: "SOCKS 5 with a user", sent: "\x05\x02\x00\x02" + login + request, keep: login, answer: "\x05\x02\x01\x00" + granted5, last: early},
		{name: "SOCKS 5 with IPv6", sent: greeting + "\x05\x01\x00\x04" + mapped + port, answer: "\x05\x00" + granted5, last: early},
		{name: "BIND", sent: greeting + bind, answer: "\x05\x00" + granted5, peer: true, last: granted5 + early},
		{name: "BIND of SOCKS 4", sent: bind4, answer: granted4, peer: true, last: granted4 + early},
		{name: "UDP ASSOCIATE", sent: greeting + udp, answer: "\x05\x00" + granted5},
		{name: "UDP ASSOCIATE with IPv6", sent: greeting + udp6, answer: "\x05\x00" + granted5},
	}
	for i, d := range all {
		all[i].from = netip.AddrFrom4([4]byte{127, 0, 2, byte(1 + i)})
		if d.name != "SOCKS 4" && d.name != "SOCKS 5" { // enough for what comes before them
			continue
		}
		v1, v2 := d, d
		v1.name, v1.balancer = "PROXY 1, "+d.name, true
		v2.name, v2.balancer = "PROXY 2, "+d.name, true
		v1.from = netip.AddrFrom4([4]byte{127, 0, 2, byte(20 + i)})
		v2.from = netip.AddrFrom4([4]byte{127, 0, 2, byte(40 + i)})
		v1.sent = fmt.Sprintf("PROXY TCP4 %v 127.0.0.1 4000 1080\r\n", v1.from) + d.sent
		v2.sent = "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c" + string(v2.from.AsSlice()) + "\x7f\x00\x00\x01\x0f\xa0\x04\x38" + d.sent
		all = append(all, v1, v2)
	}
	return all
}

// early is what a client sends before it knows that it is connected.
const early = "early bytes"

// errTurnedAway means that the proxy closed the connection without a byte, as it does
// when the slot of the client-rule is taken.
var errTurnedAway = errors.New("closed without a byte")

// dial connects as the client of d, or as its balancer.
func (d dialogue) dial(t testing.TB, proxy string) *net.TCPConn {
	t.Helper()
	c := client{proxy: proxy, from: d.from}
	if d.balancer {
		c.from = netip.MustParseAddr(balancerSource)
	}
	conn, err := c.dial()
	if err != nil {
		t.Fatalf("%s: %v", d.name, err)
	}
	return conn.(*net.TCPConn)
}

// converse sends all of d and early data, in the given pieces. It expects the answer
// and what follows, and ends as a client should.
func (d dialogue) converse(t testing.TB, proxy string, pieces ...string) error {
	t.Helper()
	conn := d.dial(t, proxy)
	defer conn.Close()
	for _, piece := range pieces {
		if _, err := io.WriteString(conn, piece); err != nil {
			break // reading tells why
		}
	}
	first, err := read(conn, d.answer)
	if first == "" && (errors.Is(err, io.EOF) || reset(err)) {
		return errTurnedAway
	}
	if err == nil && d.peer {
		var peer io.Closer
		if peer, err = d.connectPeer(first); err == nil {
			defer peer.Close()
		}
	}
	if err == nil {
		_, err = read(conn, d.last)
	}
	if err != nil {
		return err
	}
	if err := conn.CloseWrite(); err != nil {
		return err
	}
	if rest, err := io.ReadAll(conn); err != nil || len(rest) != 0 {
		return errors.Join(fmt.Errorf("after the half-close %q", rest), err)
	}
	return nil
}

// read reads as many bytes as pattern has. They must match.
func read(conn net.Conn, pattern string) (got string, err error) {
	b := make([]byte, len(pattern))
	n, err := io.ReadFull(conn, b)
	if err != nil || !matches(string(b), pattern) {
		err = errors.Join(fmt.Errorf("answer %q, want %q", b[:n], pattern), err)
	}
	return string(b[:n]), err
}

// connectPeer connects to the address in the first reply to BIND, and echoes the early
// bytes.
func (d dialogue) connectPeer(answer string) (net.Conn, error) {
	port := answer[len(answer)-2:] // of SOCKS 5
	if d.sent[0] == 4 {
		port = answer[2:4]
	}
	at := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(port[0])<<8|uint16(port[1]))
	peer, err := net.DialTimeout("tcp", at.String(), patience)
	if err != nil {
		return nil, err
	}
	err = peer.SetDeadline(time.Now().Add(patience))
	if err == nil {
		_, err = read(peer, early)
	}
	if err == nil {
		_, err = io.WriteString(peer, early)
	}
	if err == nil {
		err = peer.(*net.TCPConn).CloseWrite()
	}
	if err != nil {
		peer.Close()
		return nil, fmt.Errorf("peer: %w", err)
	}
	return peer, nil
}

// matches reports whether got is equal to pattern, where ? stands for any byte.
func matches(got, pattern string) bool {
	if len(got) != len(pattern) {
		return false
	}
	for i := range len(got) {
		if pattern[i] != '?' && pattern[i] != got[i] {
			return false
		}
	}
	return true
}

// succeeds checks that the proxy accepts d within the time limit. d needs the one slot
// of its client-rule, which the previous client has returned or is about to.
func (d dialogue) succeeds(t testing.TB, proxy, after string, pieces ...string) {
	t.Helper()
	var last error
	trouble := poll(patience, func() string {
		if last = d.converse(t, proxy, pieces...); errors.Is(last, errTurnedAway) {
			return "its slot is still taken"
		}
		return ""
	})
	if trouble != "" || last != nil {
		t.Fatalf("%s after %s: %s %v", d.name, after, trouble, last)
	}
}

// whole is d in one piece.
func (d dialogue) whole() string { return d.sent + early }

// hostileWorld is one replica with a slot for each of the dialogues. At the end of the
// test, nothing of them may be left.
func hostileWorld(t *testing.T) (proxy string, all []dialogue) {
	t.Helper()
	w := newWorld(t, options{replicas: 1, alone: true, users: users(t, "jo"), rules: func(target, _ endpoint) string {
		var text strings.Builder
		text.WriteString("socksmethod: username none\ntimeout.negotiate: 10\n")
		for _, d := range dialogues(target) {
			fmt.Fprintf(&text, "client pass {\n\tfrom: %v/32 to: 0/0\n\tsession.max: 1\n}\n", d.from)
		}
		fmt.Fprintf(&text, "socks pass {\n\tfrom: 0/0 to: %s\n\tcommand: connect\n}\n", target.to())
		fmt.Fprintf(&text, "socks pass {\n\tfrom: 0/0 to: localhost port = %d\n\tcommand: connect\n}\n", target.port)
		text.WriteString("socks pass {\n\tfrom: 127.0.0.0/8 to: 0/0\n\tcommand: bind bindreply udpassociate\n}\n")
		return text.String()
	}})
	r := w.replicas[0]
	all = dialogues(w.limited)
	for _, d := range all {
		d.succeeds(t, r.socks, "nobody", d.whole())
	}
	w.waitNoSlots(t)
	before := r.idle(t)
	t.Cleanup(func() {
		w.waitNoSlots(t)
		r.waitIdle(t, before)
	})
	return r.socks, all
}

// each runs f for all dialogues, side by side.
func each(t *testing.T, all []dialogue, f func(t *testing.T, d dialogue)) {
	t.Run("side by side", func(t *testing.T) {
		for _, d := range all {
			t.Run(d.name, func(t *testing.T) {
				t.Parallel()
				f(t, d)
			})
		}
	})
}

// TestNegotiationInPieces sends every dialogue byte by byte, in one piece, and in two
// pieces cut at every byte.
func TestNegotiationInPieces(t *testing.T) {
	proxy, all := hostileWorld(t)
	each(t, all, func(t *testing.T, d dialogue) {
		d.succeeds(t, proxy, "all at once", d.whole())
		d.succeeds(t, proxy, "byte by byte", strings.Split(d.whole(), "")...)
		for n := range len(d.whole()) {
			d.succeeds(t, proxy, fmt.Sprintf("a cut at %d", n), d.whole()[:n], d.whole()[n:])
		}
	})
}

// endings are the ways in which a client ends its connection.
var endings = []struct {
	name string
	end  func(conn *net.TCPConn) error
}{
	{"close", func(c *net.TCPConn) error { return c.Close() }},
	{"reset", func(c *net.TCPConn) error { return errors.Join(c.SetLinger(0), c.Close()) }},
	{"half-close", halfClose},
}

// halfClose ends one direction, and expects the proxy to end the other one before the
// deadline that dial has set.
func halfClose(c *net.TCPConn) error {
	defer c.Close()
	_ = c.CloseWrite() // the proxy may have closed before, which is fine
	if _, err := io.Copy(io.Discard, c); err != nil && !reset(err) {
		return err
	}
	return nil
}

// TestNegotiationCutOff ends every dialogue after each byte, in every way. The next
// client gets the slot.
func TestNegotiationCutOff(t *testing.T) {
	proxy, all := hostileWorld(t)
	each(t, all, func(t *testing.T, d dialogue) {
		for n := range len(d.sent) + 1 {
			for _, e := range endings {
				conn := d.dial(t, proxy)
				after := fmt.Sprintf("%d bytes and a %s", n, e.name)
				if _, err := io.WriteString(conn, d.sent[:n]); err != nil {
					t.Errorf("%s: %v", after, err)
				}
				if err := e.end(conn); err != nil {
					t.Errorf("%s: %v", after, err)
				}
				d.succeeds(t, proxy, after, d.whole())
			}
		}
	})
}

// TestNegotiationGarbled changes bytes of every dialogue, and appends random bytes. The
// proxy ends each by itself, and the next client gets the slot.
func TestNegotiationGarbled(t *testing.T) {
	proxy, all := hostileWorld(t)
	each(t, all, func(t *testing.T, d dialogue) {
		// The same bytes in each run, others for each dialogue.
		random := rand.New(rand.NewPCG(1928, uint64(slices.IndexFunc(all, func(o dialogue) bool { return o.name == d.name }))))
		for range 40 {
			garbled := d.garbled(random)
			conn := d.dial(t, proxy)
			_, _ = conn.Write(garbled) // as above
			if err := halfClose(conn); err != nil {
				t.Errorf("%q: %v", garbled, err)
			}
			d.succeeds(t, proxy, fmt.Sprintf("%q", garbled), d.whole())
		}
	})
}

// garbled returns d with up to three bytes changed, except those in keep, and with
// random bytes at the end.
func (d dialogue) garbled(random *rand.Rand) []byte {
	b := []byte(d.sent)
	keep := strings.Index(d.sent, d.keep)
	for range 1 + random.IntN(3) {
		at := random.IntN(len(b))
		if at < keep || at >= keep+len(d.keep) {
			b[at] = byte(random.Uint32())
		}
	}
	for range random.IntN(64) {
		b = append(b, byte(random.Uint32()))
	}
	return b
}
