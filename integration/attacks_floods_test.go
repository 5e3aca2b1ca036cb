package integration

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"usher/deploy/need"
)

// The tests of this file flood a replica with more than it can serve, and measure what
// happens to honest clients meanwhile. They assert shares and counts, never times.

// fewDescriptors is the limit of a process on many systems.
const fewDescriptors = 1024

// healthy fails the test unless the admin listener of the cage answers.
func (c *cage) healthy() {
	c.t.Helper()
	conn, err := net.DialTimeout("tcp", "127.0.0.1:9090", patience)
	if err != nil {
		c.t.Errorf("/healthz: %v", err)
		return
	}
	defer conn.Close()
	_, err = io.WriteString(within(conn), "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
	if err != nil {
		c.t.Errorf("/healthz: %v", err)
	}
	if line, err := readLine(conn); !strings.HasPrefix(line, "HTTP/1.1 200") {
		c.t.Errorf("/healthz answers %q, %v", line, err)
	}
}

// ended waits until the proxy has at most as many descriptors as before.
func (c *cage) ended(before int) {
	c.t.Helper()
	eventually(c.t, 2*patience, func() string {
		if n := c.descriptors(); n > before {
			return fmt.Sprintf("%d descriptors, %d before", n, before)
		}
		return ""
	})
}

// TestAttackSilentNames asks for names that no name server answers, through many
// associations of one client, without pause. Other clients connect to names and
// addresses meanwhile, and the admin listener answers.
func TestAttackSilentNames(t *testing.T) {
	const associations, rounds, each = 30, 6, 16
	c := newCage(t, cageRules+"socks pass { from: 127.0.8.0/24 to: 0/0 command: udpassociate }\n", fewDescriptors)
	names := map[string]func(int) []string{}
	silent := func(association, number int) string {
		return fmt.Sprintf("n%d.a%d.silent.evil.test", number, association)
	}
	for i := range associations {
		for n := range rounds * each {
			names[silent(i, n)] = nil
		}
	}
	public := func(int) []string { return []string{publicAddr} }
	for i := range 2 * rounds {
		names[fmt.Sprintf("public%d.evil.test", i)] = public
	}
	z := startZone(t, names)
	c.wantBanner(publicAddr + ":80")
	before := c.descriptors()
	var all []association
	for range associations {
		all = append(all, associate(t, c.client.proxy, attackerSource))
	}
	most := 0
	for round := range rounds {
		for i, u := range all {
			for n := range each {
				header := request(0, silent(i, round*each+n)+":53")
				header[0] = 0 // of a datagram
				sendUDP(t, u.udp, u.relay, header, "question")
			}
		}
		for i := range 2 {
			c.wantBanner(fmt.Sprintf("public%d.evil.test:80", 2*round+i))
			c.wantBanner(publicAddr + ":80")
		}
		c.healthy()
		most = max(most, c.descriptors())
	}
	asked := 0
	for i := range associations {
		for n := range rounds * each {
			asked += min(z.asked(silent(i, n)), 1)
		}
	}
	if t.Logf("%d names were looked up; at most %d descriptors were open", asked, most); asked == 0 {
		t.Error("no silent name was looked up, so this was no attack")
	}
	for _, u := range all {
		u.control.Close()
	}
	c.ended(before)
}

// TestAttackBlackHoleFlood connects from one address to a target that does not
// answer, again and again, with more connections than there are places for
// sessions. All honest clients are served meanwhile.
func TestAttackBlackHoleFlood(t *testing.T) {
	const rounds, each = 12, 75 // 900 connections, where 1024 descriptors allow 408 sessions
	c := newCage(t, strings.ReplaceAll(cageRules, "127.0.7.0/24", "127.0.0.0/20"), fewDescriptors)
	openHole(t)
	c.wantBanner(publicAddr + ":80")
	before := c.descriptors()
	attacker := client{proxy: c.client.proxy, from: netip.MustParseAddr(attackerSource)}
	for range rounds {
		for range each {
			conn, err := attacker.dial()
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { conn.Close() })
			if _, err := conn.Write(append([]byte{5, 1, 0}, connectRequest(holeAddr+":81")...)); err != nil {
				t.Fatal(err)
			}
		}
		for range 3 {
			c.wantBanner(publicAddr + ":80")
		}
		c.healthy()
	}
	if n := len(refusedIn(t, c.proxy.said.String(), "connecting")); n == 0 {
		t.Error("no connection of the flood is refused, so this was no attack")
	}
	c.ended(before)
}

// TestAttackIdleAdmin opens nearly as many idle connections to the admin listener as
// the process may have descriptors. Clients and health checks are served.
func TestAttackIdleAdmin(t *testing.T) {
	const idle = fewDescriptors - 8
	a := newAttack(t, options{env: map[string]string{descriptorLimit: fmt.Sprint(fewDescriptors)}})
	for range idle {
		conn, err := net.DialTimeout("tcp", strings.TrimPrefix(a.r.admin, "http://"), patience)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
	}
	for range 20 {
		a.honest()
		if code, _, err := a.r.get("/healthz"); code != http.StatusOK {
			t.Errorf("/healthz: %d, %v", code, err)
		}
	}
}

// slowly connects as a distant client does: it waits before each of its messages.
func (c client) slowly(target string, wait time.Duration) (served bool) {
	conn, err := c.dial()
	if err != nil {
		return false
	}
	defer conn.Close()
	got := make([]byte, 2)
	for _, m := range []struct {
		message []byte
		answer  int
	}{{[]byte{5, 1, 0}, 2}, {connectRequest(target), 10}} {
		time.Sleep(wait)
		if _, err := conn.Write(m.message); err != nil {
			return false
		}
		got = make([]byte, m.answer)
		if _, err := io.ReadFull(conn, got); err != nil {
			return false
		}
	}
	return got[1] == granted
}

// TestAttackConnectFlood opens silent connections from one address, up to two thousand
// a second, and keeps open more than may negotiate. Of the honest clients, with a round
// trip of 200 ms, at least 99 of 100 are served.
func TestAttackConnectFlood(t *testing.T) {
	for _, c := range []struct{ descriptors, held int }{
		{fewDescriptors, 400}, // and 256 may negotiate
		{20000, 5400},         // and 5000 may
	} {
		t.Run(fmt.Sprint(c.descriptors), func(t *testing.T) {
			if c.descriptors > fewDescriptors {
				need.Seconds(t)
			}
			var own syscall.Rlimit
			if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &own); err != nil || own.Max < uint64(c.descriptors) {
				need.Missing(t, fmt.Sprintf("a limit of %d open files", c.descriptors))
			}
			connectFlood(t, c.descriptors, c.held)
		})
	}
}

// connectFlood is TestAttackConnectFlood for a replica with this many descriptors and a
// flood with this many connections.
func connectFlood(t *testing.T, descriptors, connections int) {
	const clients, attempts, flooders = 40, 5, 2
	held := connections / flooders
	a := newAttack(t, options{env: map[string]string{descriptorLimit: fmt.Sprint(descriptors)}})
	stop := make(chan struct{})
	var flood sync.WaitGroup
	var opened atomic.Int64
	for range flooders {
		flood.Go(func() {
			c := client{proxy: a.r.socks, from: netip.MustParseAddr(attackerSource)}
			conns := make([]net.Conn, held)
			defer func() {
				for _, c := range conns {
					if c != nil {
						c.Close()
					}
				}
			}()
			pace := time.NewTicker(time.Millisecond) // else the flood overloads the machine of the test
			defer pace.Stop()
			for i := 0; ; i = (i + 1) % held {
				select {
				case <-stop:
					return
				case <-pace.C:
				}
				if conns[i] != nil {
					conns[i].(*net.TCPConn).SetLinger(0) //nolint:errcheck // its port is free at once
					conns[i].Close()
				}
				conns[i], _ = c.dial() // it may be turned away
				opened.Add(1)
			}
		})
	}
	eventually(t, 4*patience, func() string {
		if a.r.metrics(t).sum("usher_clients_turned_away_total", `reason="negotiating"`) == 0 {
			return "nobody is turned away"
		}
		return ""
	})
	var served atomic.Int64
	before := opened.Load()
	together(clients, func(i int) {
		c := client{proxy: a.r.socks, from: netip.AddrFrom4([4]byte{127, 0, 7, byte(10 + i)})}
		for range attempts {
			if c.slowly(a.free.String(), 100*time.Millisecond) {
				served.Add(1)
			}
		}
	})
	t.Logf("%d of %d honest clients were served beside %d connections of the flood", served.Load(), clients*attempts, opened.Load()-before)
	if n := served.Load(); 100*n < 99*clients*attempts {
		t.Errorf("%d of %d honest clients are served, want 99 of 100", n, clients*attempts)
	}
	close(stop)
	flood.Wait()
}

// TestAttackLoginFlood sends wrong passwords from 30 addresses, eight at a time from
// each. Passwords have a realistic cost. An honest login waits for only a few of them.
func TestAttackLoginFlood(t *testing.T) {
	const sources, each, honest = 30, 8, 5
	cost := 10
	if raceEnabled {
		cost = 7
	}
	var text strings.Builder
	for i := range honest { // each has its own name, because Usher remembers correct passwords
		hash, err := bcrypt.GenerateFromPassword(fmt.Appendf(nil, "pw-honest%d", i), cost)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&text, "honest%d:%s\n", i, hash)
	}
	a := newAttack(t, options{users: text.String(), env: map[string]string{"USHER_AUTH_FAILURES": "0"}, rules: func(_, free endpoint) string {
		return "socksmethod: username none\nclient pass { from: " + honestSource + "/32 to: 0/0 socksmethod: none }\n" +
			"client pass { from: 0/0 to: 0/0 socksmethod: username }\nsocks pass { from: 0/0 to: " + free.to() + " }\n"
	}})
	ctx, stop := context.WithCancel(t.Context())
	var flood sync.WaitGroup
	var refused atomic.Int64
	for i := range sources * each {
		c := client{proxy: a.r.socks, from: netip.AddrFrom4([4]byte{127, 0, 8, byte(1 + i%sources)}), user: "honest0", password: "guess"}
		flood.Go(func() { guess(ctx, c, &refused) })
	}
	eventually(t, 4*patience, func() string {
		if n := refused.Load(); n < sources {
			return fmt.Sprintf("%d logins are refused", n)
		}
		return ""
	})
	var waited []int64
	for i := range honest {
		began, before := time.Now(), refused.Load()
		c := client{proxy: a.r.socks, from: netip.AddrFrom4([4]byte{127, 0, 7, byte(10 + i)}), user: fmt.Sprintf("honest%d", i), password: fmt.Sprintf("pw-honest%d", i)}
		got := c.connect(a.free.String())
		if !got.relays() {
			t.Errorf("an honest login: reply %d, %v", got.reply, got.err)
		}
		if got.Conn != nil {
			got.Close()
		}
		waited = append(waited, refused.Load()-before)
		t.Logf("an honest login took %v, in which %d of the flood were refused", time.Since(began).Round(time.Millisecond), waited[i])
	}
	stop()
	flood.Wait()
	// In order of arrival, it would wait for nearly all attempts in flight: 240.
	if slices.Sort(waited); waited[honest/2] > sources {
		t.Errorf("half of the honest logins wait for more than %d of the flood: %v", sources, waited)
	}
}

// guess logs in with a wrong password until ctx ends, and counts the refusals.
func guess(ctx context.Context, c client, refused *atomic.Int64) {
	for ctx.Err() == nil {
		conn, err := c.dial()
		if err != nil {
			continue
		}
		release := context.AfterFunc(ctx, func() { conn.Close() })
		if c.negotiate(conn, nil).reply == noMethod && ctx.Err() == nil {
			refused.Add(1)
		}
		release()
		conn.Close()
	}
}

// TestAttackScrapes reads the metrics from eight clients without pause, while clients
// connect. Simultaneous scrapes share one collection.
func TestAttackScrapes(t *testing.T) {
	const scrapers, connects = 8, 50
	a := newAttack(t, options{})
	latency := func() time.Duration {
		var all []time.Duration
		for range connects {
			began := time.Now()
			a.honest()
			all = append(all, time.Since(began))
		}
		slices.Sort(all)
		return all[connects/2]
	}
	alone := latency()
	stop := make(chan struct{})
	var scraping sync.WaitGroup
	var mu sync.Mutex
	scrapes, bodies := 0, map[string]bool{}
	for range scrapers {
		scraping.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				code, body, err := a.r.get("/metrics")
				if code != http.StatusOK {
					t.Errorf("/metrics: %d, %v", code, err)
				}
				mu.Lock()
				scrapes++
				bodies[body] = true
				mu.Unlock()
			}
		})
	}
	beside := latency()
	close(stop)
	scraping.Wait()
	t.Logf("a connect takes %v, beside %d scrapers %v (medians of %d); %d scrapes, %d collections", alone, scrapers, beside, connects, scrapes, len(bodies))
	if 4*len(bodies) > 3*scrapes {
		t.Errorf("%d scrapes of %d clients take %d collections, want them to be shared", scrapes, scrapers, len(bodies))
	}
}
