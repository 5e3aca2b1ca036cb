package integration

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"usher/deploy/need"
)

var soakTime = flag.Duration("soak", 3*time.Second, "how long the soak test keeps its clients busy; minutes find slow leaks")

// Limits of the soak test's rules. There are more clients than these limits admit.
const (
	soakLimit   = 2
	soakBinds   = 2
	soakUDP     = 2
	soakClients = 24
)

// soak is what the clients of the soak test share.
type soak struct {
	w       *world
	proxy   client
	limited gauge // sessions that were granted by the limited rule, as clients see it
	binds   gauge // likewise by the rule for BIND
	udps    gauge // likewise by the rule for UDP ASSOCIATE
	bytes   atomic.Int64
	closed  string         // a target that refuses
	blocked string         // a target that the rules refuse
	mirror  netip.AddrPort // a UDP target
}

// gauge counts what is open, the maximum of this, and what was refused.
type gauge struct {
	mu                 sync.Mutex
	now, peak, refused int
}

func (g *gauge) add(n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.now += n
	g.peak = max(g.peak, g.now)
}

// count takes the answer to a request that a limit may refuse.
func (g *gauge) count(a answer) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if a.reply == notAllowed {
		g.refused++
	}
}

// soakKinds are the kinds of clients.
var soakKinds = []struct {
	name string
	run  func(s *soak, random *rand.Rand) error
}{
	{"exchange", (*soak).exchange},
	{"exchange of a user", (*soak).userExchange},
	{"limited exchange", (*soak).limitedExchange},
	{"abort", (*soak).abort},
	{"vanish while negotiating", (*soak).vanish},
	{"hang while negotiating", (*soak).hang},
	{"wrong password", (*soak).wrongPassword},
	{"refused target", (*soak).refused},
	{"blocked target", (*soak).forbidden},
	{"bind", (*soak).bind},
	{"bind without a peer", (*soak).bindInVain},
	{"udp", (*soak).udp},
}

// TestSoak lets clients of all kinds use three replicas, and then checks that nothing
// of them is left: sessions, slots, goroutines, descriptors. Every payload comes back
// as it was sent, and no limit is exceeded.
func TestSoak(t *testing.T) {
	// On a busy machine, a replica may lose its lease for a moment. Other tests are about
	// that. Here, clients wait until it is back.
	env := map[string]string{"USHER_STORE_WAIT": "10s"}
	w := newWorld(t, options{users: users(t, "jo"), env: env, rules: func(limited, free endpoint) string {
		return fmt.Sprintf(soakRules, limited.to(), soakLimit, soakBinds, soakUDP)
	}})
	s := &soak{
		w: w, proxy: w.proxy, mirror: startMirror(t),
		closed:  fmt.Sprintf("127.0.0.1:%d", need.Port(t)),
		blocked: fmt.Sprintf("127.0.0.3:%d", w.free.port),
	}
	s.rounds(t, 3*len(soakKinds), time.Second) // what the first sessions leave for good is no leak
	w.waitNoSlots(t)
	before := map[*replica]leftovers{}
	for _, r := range w.replicas {
		before[r] = r.idle(t)
	}
	s.rounds(t, soakClients, *soakTime)
	w.waitNoSlots(t)
	for _, r := range w.replicas {
		r.waitIdle(t, before[r])
	}
	s.limited.check(t, "limited target", soakLimit)
	s.binds.check(t, "BIND", soakBinds)
	s.udps.check(t, "UDP ASSOCIATE", soakUDP)
}

// check fails if more than limit were open at a time, or if the limit was never
// reached.
func (g *gauge) check(t *testing.T, name string, limit int) {
	t.Helper()
	t.Logf("%s: %d at a time, %d refused", name, g.peak, g.refused)
	if g.peak > limit || g.peak == 0 || g.refused == 0 {
		t.Errorf("%s: up to %d at a time, %d refused; the limit is %d", name, g.peak, g.refused, limit)
	}
}

const soakRules = `
socksmethod: username none
timeout.negotiate: 3
client pass {
	from: 0/0 to: 0/0
}
socks block {
	from: 0/0 to: 127.0.0.3/32
}
socks pass {
	from: 0/0 to: %s
	command: connect
	maxsessions: %d
}
socks pass {
	from: 0/0 to: 0/0
	command: bind bindreply
	maxsessions: %d
}
socks pass {
	from: 0/0 to: 0/0
	command: udpassociate udpreply
	maxsessions: %d
}
socks pass {
	from: 0/0 to: 0/0
	command: connect
}
`

// rounds runs n clients, each of one kind after another, until the time is over and
// each kind has run.
func (s *soak) rounds(t *testing.T, n int, d time.Duration) {
	t.Helper()
	end := time.Now().Add(d)
	done := make([]atomic.Int64, len(soakKinds))
	together(n, func(i int) {
		random := rand.New(rand.NewPCG(uint64(n), uint64(i)))
		for turn := i; turn < i+len(soakKinds) || time.Now().Before(end); turn++ {
			kind := turn % len(soakKinds)
			if err := soakKinds[kind].run(s, random); err != nil {
				t.Errorf("%s: %v", soakKinds[kind].name, err)
				return
			}
			done[kind].Add(1)
		}
	})
	for i := range done {
		t.Logf("%s: %d times", soakKinds[i].name, done[i].Load())
	}
	t.Logf("%d KiB went to a target and came back", s.bytes.Load()>>10)
}

// wantOneOf returns nil if a is one of the replies.
func (a answer) wantOneOf(replies ...int) error {
	for _, r := range replies {
		if a.reply == r {
			return nil
		}
	}
	if a.Conn != nil {
		a.Close()
	}
	return errors.Join(fmt.Errorf("reply %d, want one of %d", a.reply, replies), a.err)
}

// exchange sends a payload to an echo and takes it back.
func (s *soak) exchange(random *rand.Rand) error {
	a := s.proxy.connect(s.w.free.String())
	if err := a.wantOneOf(granted); err != nil {
		return err
	}
	defer a.Close()
	return s.echoed(a.Conn, random)
}

func (s *soak) userExchange(random *rand.Rand) error {
	user := s.proxy
	user.user, user.password = "jo", "pw-jo"
	a := user.connect(s.w.free.String())
	if err := a.wantOneOf(granted); err != nil {
		return err
	}
	defer a.Close()
	return s.echoed(a.Conn, random)
}

func (s *soak) limitedExchange(random *rand.Rand) error {
	a := s.proxy.connect(s.w.limited.String())
	s.limited.count(a)
	if err := a.wantOneOf(granted, notAllowed); err != nil || a.reply != granted {
		return err
	}
	defer a.Close()
	s.limited.add(1)
	alive := a.relays()
	s.limited.add(-1) // before the session can end
	if !alive {
		return errors.New("granted, and relays nothing")
	}
	return s.echoed(a.Conn, random)
}

// echoed sends a random payload, half-closes, and reads it back to the end.
func (s *soak) echoed(conn net.Conn, random *rand.Rand) error {
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	payload := make([]byte, random.IntN(1<<random.IntN(19)+1))
	for i := range payload {
		payload[i] = byte(random.Uint32())
	}
	sent := make(chan error, 1)
	go func() {
		_, err := conn.Write(payload)
		sent <- errors.Join(err, conn.(*net.TCPConn).CloseWrite())
	}()
	back, err := io.ReadAll(conn)
	if err != nil {
		conn.Close() // or the writer might wait
	}
	err = errors.Join(err, <-sent)
	if err == nil && !bytes.Equal(back, payload) {
		err = fmt.Errorf("sent %d bytes, got %d others back", len(payload), len(back))
	}
	s.bytes.Add(int64(len(back)))
	return err
}

// abort resets or closes a connection while data flows.
func (s *soak) abort(random *rand.Rand) error {
	target := []endpoint{s.w.limited, s.w.free}[random.IntN(2)]
	a := s.proxy.connect(target.String())
	if err := a.wantOneOf(granted, notAllowed); err != nil || a.reply != granted {
		return err
	}
	defer a.Close()
	if _, err := a.Write(make([]byte, random.IntN(1<<16))); err != nil {
		return err
	}
	if random.IntN(2) == 0 {
		return a.Conn.(*net.TCPConn).SetLinger(0)
	}
	return nil
}

// vanish leaves in the middle of a negotiation, in one of three ways.
func (s *soak) vanish(random *rand.Rand) error {
	conn, err := s.proxy.dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	all := append([]byte{5, 1, 0}, connectRequest(s.w.free.String())...)
	if _, err := conn.Write(all[:random.IntN(len(all))]); err != nil {
		return err
	}
	switch random.IntN(3) {
	case 0:
		return conn.(*net.TCPConn).SetLinger(0)
	case 1:
		return halfClose(conn.(*net.TCPConn))
	}
	return nil
}

// hang stops in the middle of a negotiation, in one of twenty cases: it takes as
// long as timeout.negotiate.
func (s *soak) hang(random *rand.Rand) error {
	if random.IntN(20) != 0 {
		return nil
	}
	conn, err := s.proxy.dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := conn.Write([]byte{5, 1}); err != nil {
		return err
	}
	if got, err := io.ReadAll(conn); len(got) > 0 || err != nil && !reset(err) {
		return errors.Join(fmt.Errorf("answered % x", got), err)
	}
	return nil
}

// wrongPassword uses its own address, because clients that fail too often are refused
// for a while. The balancer names the address.
func (s *soak) wrongPassword(*rand.Rand) error {
	c := client{proxy: s.proxy.proxy, from: netip.MustParseAddr("127.0.3.1"), user: "jo", password: "wrong"}
	return c.connect(s.w.free.String()).wantOneOf(noMethod, noReply)
}

func (s *soak) refused(*rand.Rand) error {
	return s.proxy.connect(s.closed).wantOneOf(5)
}

func (s *soak) forbidden(*rand.Rand) error {
	return s.proxy.connect(s.blocked).wantOneOf(notAllowed)
}

// bind lets a peer connect to a listener of the proxy. The peer echoes.
func (s *soak) bind(random *rand.Rand) error {
	conn, first, err := s.listen()
	if err != nil || first.reply != granted {
		return err
	}
	defer conn.Close()
	s.binds.add(1)
	peer, err := net.DialTimeout("tcp", first.bound.String(), patience)
	if err != nil {
		s.binds.add(-1)
		return err
	}
	var echoing sync.WaitGroup
	echoing.Go(func() {
		defer peer.Close()
		io.Copy(peer, peer) //nolint:errcheck // the other side would tell
	})
	defer echoing.Wait()
	defer peer.Close()
	second := readReply(conn)
	s.binds.add(-1)
	if err := second.wantOneOf(granted); err != nil {
		return err
	}
	if second.bound != peer.LocalAddr().(*net.TCPAddr).AddrPort() {
		return fmt.Errorf("the peer is %v, the reply says %v", peer.LocalAddr(), second.bound)
	}
	return s.echoed(conn, random)
}

// bindInVain closes its connection before a peer comes.
func (s *soak) bindInVain(*rand.Rand) error {
	conn, first, err := s.listen()
	if err != nil || first.reply != granted {
		return err
	}
	s.binds.add(1)
	s.binds.add(-1)
	conn.Close()
	return nil
}

// listen asks for BIND, for a peer on 127.0.0.1, and reads the first reply. If
// the limit is reached it is notAllowed and conn is closed.
func (s *soak) listen() (conn net.Conn, first answer, err error) {
	conn, err = s.proxy.dial()
	if err != nil {
		return nil, answer{}, err
	}
	first = s.proxy.negotiate(conn, request(2, "127.0.0.1:0"))
	s.binds.count(first)
	if err = first.wantOneOf(granted, notAllowed); err != nil || first.reply != granted {
		conn.Close()
	}
	return conn, first, err
}
