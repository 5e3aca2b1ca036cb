package integration

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// faultTarget is the target of one limit of a faultWorld. It witnesses how many
// sessions it has.
type faultTarget struct {
	*witness
	counter  string                // what the store counts, after the digest
	limit    int                   // most sessions
	perKey   int                   // most of one client address; 0: as many as the limit
	above    int                   // the reply above the limit
	ask      func(c client) answer // for a session, which carries lines if it is granted
	halfDone bool                  // it is a negotiation, which carries nothing
}

// keys is how many addresses clients come from. Those that only negotiate come from one
// more.
const keys = 3

// from returns the address of a key.
func (f *faultWorld) from(key int) netip.Addr {
	return netip.AddrFrom4([4]byte{127, 0, byte(f.net), byte(100 + key)})
}

// addTargets makes a target for each plain limit. With allKinds, it also makes one
// whose clients have a limit each, one for UDP associations, and one for negotiations.
// With numbers of a pool, one target is for two rules in that pool. It returns the
// rules.
func (f *faultWorld) addTargets(t *testing.T, plain []int, allKinds bool, numbers []int) (rules string) {
	t.Helper()
	pool := func() string {
		if len(numbers) == 0 {
			return ""
		}
		return f.addPool(t, slices.Max(numbers))
	}
	for _, limit := range plain {
		rules += f.addConnect(t, limit, 0, fmt.Sprintf("maxsessions: %d", limit))
	}
	anybody := "client pass {\n\tfrom: 0/0 to: 0/0\n}\n"
	if !allKinds {
		return anybody + rules + pool()
	}
	rules += f.addConnect(t, 4, 2, "session.max: 4\n\tsession.state.key: from\n\tsession.state.max: 2")
	rules += f.addUDP(t, 4) + pool()
	return f.addNegotiation(2) + anybody + rules
}

func (f *faultWorld) addTarget(target *faultTarget) {
	f.targets = append(f.targets, target)
	f.limits = append(f.limits, target.limit)
}

func (f *faultWorld) addConnect(t *testing.T, limit, perKey int, keywords string) (rule string) {
	t.Helper()
	// The rules name no port. A port would change the digest in each run, and with it
	// the shard of each limit.
	host := fmt.Sprintf("127.0.%d.%d", f.net, 200+len(f.targets))
	w := startWitness(t, f.truth, host)
	f.addTarget(&faultTarget{
		witness: w, counter: fmt.Sprintf("s%d", len(f.targets)+1), limit: limit, perKey: perKey, above: notAllowed,
		ask: func(c client) answer { return c.connect(w.String()) },
	})
	return fmt.Sprintf("socks pass {\n\tfrom: 0/0 to: %s/32\n\tcommand: connect\n\t%s\n}\n", host, keywords)
}

// poolNumber stands for the number of a pool in the rules of each replica.
const poolNumber = "NUMBER"

// addPool makes a target with two hosts. Each host has a rule, and both rules are in
// one pool.
func (f *faultWorld) addPool(t *testing.T, limit int) (rules string) {
	t.Helper()
	var hosts []*witness
	for i := range 2 {
		host := fmt.Sprintf("127.0.%d.%d", f.net, 230+i)
		hosts = append(hosts, startWitness(t, f.truth, host))
		rules += fmt.Sprintf("socks pass {\n\tfrom: 0/0 to: %s/32\n\tcommand: connect\n\tsession.pool: faults\n\tsession.max: %s\n}\n", host, poolNumber)
	}
	var asked atomic.Int64
	f.addTarget(&faultTarget{
		witness: hosts[0], counter: "faults", limit: limit, above: notAllowed,
		ask: func(c client) answer { return c.connect(hosts[asked.Add(1)%2].String()) },
	})
	return rules
}

func (f *faultWorld) addUDP(t *testing.T, limit int) (rules string) {
	t.Helper()
	at := startUDPWitness(t, f.truth)
	f.addTarget(&faultTarget{
		witness: &witness{truth: f.truth}, counter: fmt.Sprintf("s%d", len(f.targets)+1), limit: limit, above: notAllowed,
		ask: func(c client) answer { return c.associate(at) },
	})
	return fmt.Sprintf("socks pass {\n\tfrom: 0/0 to: 0/0\n\tcommand: udpassociate\n\tmaxsessions: %d\n}\n", limit) +
		"socks pass {\n\tfrom: 0/0 to: 0/0\n\tcommand: udpreply\n}\n"
}

func (f *faultWorld) addNegotiation(limit int) (rule string) {
	f.addTarget(&faultTarget{
		witness: &witness{truth: f.truth}, counter: "c1", limit: limit, above: noReply, halfDone: true,
		ask: func(c client) answer { c.from = f.from(keys); return c.greet() },
	})
	return fmt.Sprintf("client pass {\n\tfrom: %s/32 to: 0/0\n\tmaxsessions: %d\n}\n", f.from(keys), limit)
}

// greet begins to negotiate. A client that is told a method has passed the client-rule.
func (c client) greet() answer {
	conn, err := c.dial()
	if err != nil {
		return answer{reply: noReply, err: err}
	}
	var method [2]byte
	_, err = conn.Write([]byte{5, 1, 0})
	if err == nil {
		_, err = io.ReadFull(conn, method[:])
	}
	if err != nil || method != [2]byte{5, 0} {
		conn.Close()
		return answer{reply: noReply, err: errors.Join(err, fmt.Errorf("method reply % x", method))}
	}
	return answer{Conn: conn, reply: granted}
}

// finish ends a negotiation after a while, by a request that no rule passes. The reply
// proves that the client still negotiated when it sent the request.
func (t *truth) finish(s *proven, c net.Conn, after time.Duration, stop <-chan struct{}) {
	defer c.Close()
	timer := time.NewTimer(after)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-stop:
	}
	line := t.send(s)
	if _, err := c.Write(connectRequest("127.0.0.1:1")); err == nil && readReply(c).reply == notAllowed {
		t.arrived(s.id, line)
	}
}

// datagrams is an association as a connection: each line is a datagram.
type datagrams struct {
	*net.UDPConn
	control net.Conn
	header  []byte
	over    chan struct{} // closed when the proxy or Close has ended it
}

// associate asks for an association, for datagrams to and from at.
func (c client) associate(at netip.AddrPort) answer {
	control, err := c.dial()
	if err != nil {
		return answer{reply: noReply, err: err}
	}
	a := c.negotiate(control, request(3, "0.0.0.0:0"))
	if a.reply != granted {
		control.Close()
		return a
	}
	conn, err := net.DialUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(c.from, 0)), net.UDPAddrFromAddrPort(a.bound))
	if err = errors.Join(err, control.SetDeadline(time.Time{})); err != nil {
		control.Close()
		return answer{reply: noReply, err: err}
	}
	d := &datagrams{UDPConn: conn, control: control, header: header(at), over: make(chan struct{})}
	go d.watch()
	a.Conn = d
	return a
}

// watch ends the association when its TCP connection ends.
func (d *datagrams) watch() {
	defer close(d.over)
	io.Copy(io.Discard, d.control) //nolint:errcheck // however it ends
	d.UDPConn.Close()
}

func (d *datagrams) Close() error {
	err := d.control.Close()
	<-d.over
	return err
}

func (d *datagrams) Write(line []byte) (int, error) {
	_, err := d.UDPConn.Write(append(d.header[:len(d.header):len(d.header)], line...))
	return len(line), err
}

func (d *datagrams) Read(line []byte) (int, error) {
	b := make([]byte, 1<<10)
	n, err := d.UDPConn.Read(b)
	return copy(line, b[min(n, len(d.header)):n]), err
}

// startUDPWitness starts a witness for datagrams.
func startUDPWitness(t *testing.T, truth *truth) netip.AddrPort {
	t.Helper()
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		b := make([]byte, 1<<10)
		for {
			n, from, err := conn.ReadFromUDPAddrPort(b)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			truth.read(string(b[:n]))
			conn.WriteToUDPAddrPort(b[:n], from) //nolint:errcheck // a client that does not get it sends another
		}
	})
	t.Cleanup(func() { conn.Close(); serving.Wait() })
	return conn.LocalAddr().(*net.UDPAddr).AddrPort()
}
