// Package udp relays the datagrams of SOCKS 5 clients (RFC 1928 section 7). It
// knows no session: an association is given who decides about its datagrams, the
// TCP connection of its client, which ends it, and where to count, and returns an
// error.
package udp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"usher/proxy/decide"
	"usher/proxy/idle"
	"usher/proxy/resolve"
	"usher/proxy/rules"
	"usher/proxy/selfaddr"
	"usher/proxy/socks"
)

// maxWaiting is how many datagrams of one association may wait for a name at
// a time; more are dropped.
const maxWaiting = 16

// Why an association ends, or cannot begin.
var (
	ErrEnded    = errors.New("the client ended its association")
	ErrClient   = errors.New("the connection to the client broke")
	ErrTarget   = errors.New("the socket towards targets broke")
	ErrIdle     = errors.New("idle timeout (timeout.io.udp)")
	ErrMayWrite = errors.New("the session may no longer write")
	ErrPorts    = errors.New("no UDP port is free")
	ErrSocket   = errors.New("no UDP socket")
)

// Options are what an association needs. All are required but for those that
// say what their zero value means.
type Options struct {
	Judge   decide.Session // decides about each datagram
	Names   *resolve.Cache // looks up the names of targets and rules
	Metrics *Metrics
	// Control is the TCP connection of the client. Its end ends the association,
	// whose end closes it.
	Control   net.Conn
	Client    Client          // where datagrams are taken from
	Advertise []netip.Addr    // addresses to tell clients instead of Judge.Local, at most one of each family; may be empty
	Ports     rules.PortRange // ports to tell clients; zero: any
	// Heard has the addresses at which all associations of the server hear their
	// clients. No other association may send there.
	Heard    *selfaddr.Set
	MayWrite func() bool   // asked before every system call that sends; nil: always
	Up, Down *atomic.Int64 // count the bytes relayed to and from targets
}

// Client is where an association takes datagrams from.
type Client struct {
	Addr netip.Addr // the zero Addr: anywhere in Within
	Port uint16     // 0: any
	// Within are the networks of which one holds the client, if Addr does not say it.
	Within []netip.Prefix
}

// Complete reports whether exactly one address and port is meant.
func (c Client) Complete() bool { return c.Addr.IsValid() && c.Port != 0 }

func (c Client) allows(from netip.AddrPort) bool {
	if c.Port != 0 && c.Port != from.Port() {
		return false
	}
	if c.Addr.IsValid() {
		return c.Addr == from.Addr()
	}
	return slices.ContainsFunc(c.Within, func(n netip.Prefix) bool { return n.Contains(from.Addr()) })
}

// Association relays the datagrams of one client. Each one is judged by the
// rules: the client's as udpassociate with its target, those that come back as
// udpreply from the peer to the client. A datagram that is dropped is counted by
// its reason, and ends nothing.
//
// It has a socket that faces the client, and one upstream for each family,
// opened by the first datagram that needs it. A goroutine reads each of them. A
// datagram that needs a name which is not known yet gets a goroutine of its own,
// so that the others need not wait.
type Association struct {
	o          Options
	front      *socket
	advertised netip.AddrPort         // where the client sends to, as it was told
	client     atomic.Pointer[origin] // nil until the first datagram that the rules pass
	peers      peers
	waiting    chan struct{} // has a token for each datagram that waits for a name

	up, down atomic.Int64            // datagrams relayed
	drops    [dropKinds]atomic.Int64 // and dropped, by reason

	idle    idle.Timer
	readers sync.WaitGroup // of sockets, and datagrams that wait for names
	failed  sync.Once
	err     error // the first one; to be read when all have ended

	mu       sync.Mutex
	upstream map[bool]*socket // by whether it is for IPv4
	closed   bool
}

// Open opens the socket that faces the client. The error is ErrSocket, and
// ErrPorts if all ports are taken. The caller runs or closes the association.
func Open(o Options) (*Association, error) {
	bound, advertised := frontAddress(o.Advertise, o.Judge.From.Addr(), o.Judge.Local)
	at := bound
	if at.Is6() && at.IsLinkLocalUnicast() {
		at = at.WithZone(o.Judge.Zone)
	}
	front, err := listenIn(at, o.Ports, o.Heard, o.MayWrite)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSocket, err)
	}
	if bound.IsUnspecified() { // answers have to come from where the client sends to
		if err := front.noteArrival(); err != nil {
			front.close()
			return nil, fmt.Errorf("%w: %w", ErrSocket, err)
		}
	}
	return newAssociation(o, front, netip.AddrPortFrom(advertised, front.local.Port())), nil
}

func newAssociation(o Options, front *socket, advertised netip.AddrPort) *Association {
	o.Heard.Add(front.local, advertised)
	return &Association{
		o: o, front: front, advertised: advertised,
		waiting:  make(chan struct{}, maxWaiting),
		upstream: make(map[bool]*socket),
	}
}

// Advertised returns the address that the client is to send its datagrams to.
func (a *Association) Advertised() netip.AddrPort { return a.advertised }

// Close closes the sockets. It never fails.
func (a *Association) Close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return nil
	}
	a.closed = true
	a.o.Heard.Remove(a.front.local, a.advertised)
	a.front.close()
	for _, u := range a.upstream {
		u.close()
	}
	return nil
}

// Run relays until the client's connection ends or breaks, or no datagram has
// passed for limit; 0 is no limit. ErrEnded is the client's own end. To end it
// from outside, close the control connection and the association. It is called
// once.
func (a *Association) Run(ctx context.Context, limit time.Duration) error {
	a.idle.Start(limit, func() { a.fail(ErrIdle) })
	defer a.idle.Stop()
	a.readers.Go(func() { a.fail(a.readClient(ctx)) })
	a.fail(a.awaitEnd())
	a.readers.Wait()
	return a.err
}

// awaitEnd waits for the end of the client's connection. Bytes that the client
// sends there are ignored.
func (a *Association) awaitEnd() error {
	b := make([]byte, 64)
	for {
		if _, err := a.o.Control.Read(b); errors.Is(err, io.EOF) {
			return ErrEnded
		} else if err != nil {
			return fmt.Errorf("%w: %w", ErrClient, err)
		}
	}
}

// fail ends the association.
func (a *Association) fail(err error) {
	a.failed.Do(func() {
		a.err = err
		_ = a.o.Control.Close()
		_ = a.Close()
	})
}

// readClient reads what comes from the client, or pretends to.
func (a *Association) readClient(ctx context.Context) error {
	names := cachedOnly(a.o.Names)
	for {
		buffer, n, o, err := a.front.read(0)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrClient, err)
		}
		a.receive(ctx, names, buffer[:n], o)
		datagrams.Put(buffer)
	}
}

// receive handles one datagram that came to the client's side.
func (a *Association) receive(ctx context.Context, names *nameLookup, b []byte, o origin) {
	if !a.knows(o.from) {
		a.count(dropForeign)
		return
	}
	d, err := socks.ParseDatagram(b)
	switch {
	case err != nil:
		a.count(dropMalformed)
		return
	case d.Frag != 0: // RFC 1928: who does not reassemble must drop them
		a.count(dropFragment)
		return
	}
	target := decide.Target(d.Addr)
	result := a.forward(ctx, names, o, target, d.Data)
	if result == unknownName {
		data := append([]byte(nil), d.Data...)
		a.deferUntilResolved(ctx, func(names *nameLookup) drop { return a.forward(ctx, names, o, target, data) })
		return
	}
	a.count(result)
}

// knows reports whether the client may be at from.
func (a *Association) knows(from netip.AddrPort) bool {
	if c := a.client.Load(); c != nil {
		return c.from == from
	}
	return a.o.Client.allows(from)
}

// latch makes o the client's address for good, and reports whether it is.
// Answers leave from where this datagram arrived.
func (a *Association) latch(o origin) bool {
	if a.client.Load() == nil {
		first := new(origin)
		*first = o
		a.client.CompareAndSwap(nil, first)
	}
	return a.client.Load().from == o.from
}

// forward judges a datagram of the client and sends it on.
func (a *Association) forward(ctx context.Context, names *nameLookup, o origin, target rules.Target, data []byte) drop {
	names.unknown = false
	v, err := a.o.Judge.Datagram(o.from, target, &names.Names)
	switch {
	case err != nil:
		return dropOf(err)
	case !a.latch(o):
		return dropForeign
	}
	result := dropUnresolved
	for _, addr := range v.Addrs {
		if result = a.send(ctx, netip.AddrPortFrom(addr, target.Port), data); result == relayed {
			a.o.Up.Add(int64(len(data)))
			a.up.Add(1)
			a.o.Metrics.up.Inc()
			return relayed
		}
	}
	return result
}

// send sends a datagram to one address.
func (a *Association) send(ctx context.Context, to netip.AddrPort, data []byte) drop {
	if err := a.o.Judge.Sendable(rules.UDPAssociate, to); err != nil {
		return dropOf(err)
	}
	socket, err := a.upstreamFor(ctx, to.Addr())
	if err != nil {
		return dropOf(err)
	}
	a.peers.add(to) // before its answer can come
	return a.write(socket, data, to, netip.Addr{})
}

// write sends a datagram in either direction.
func (a *Association) write(socket *socket, data []byte, to netip.AddrPort, source netip.Addr) drop {
	err := socket.write(data, to, source)
	switch {
	case err == nil:
		a.idle.Touch()
	case errors.Is(err, ErrMayWrite):
		a.fail(err)
	}
	return dropOf(err)
}

// upstreamFor returns the socket towards targets of the family of to.
func (a *Association) upstreamFor(ctx context.Context, to netip.Addr) (*socket, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return nil, net.ErrClosed
	}
	if u := a.upstream[to.Is4()]; u != nil {
		return u, nil
	}
	from, err := a.o.Judge.Source(to)
	if err != nil {
		return nil, err
	}
	if !from.IsValid() {
		from = netip.AddrPortFrom(netip.IPv6Unspecified(), 0)
		if to.Is4() {
			from = netip.AddrPortFrom(netip.IPv4Unspecified(), 0)
		}
	}
	u, err := listen(from, a.o.MayWrite)
	if err != nil {
		return nil, err
	}
	a.upstream[to.Is4()] = u
	a.readers.Go(func() { a.fail(a.readTargets(ctx, u)) })
	return u, nil
}

// readTargets reads what comes from the targets at one socket.
func (a *Association) readTargets(ctx context.Context, upstream *socket) error {
	names := cachedOnly(a.o.Names)
	for {
		// A datagram that is too long for the rest of the buffer is cut off
		// here. It would be too long with its header, too, so the system
		// refuses to send it.
		buffer, n, o, err := upstream.read(socks.MaxUDPHeaderIP)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrTarget, err)
		}
		a.answer(ctx, names, buffer[:socks.MaxUDPHeaderIP+n], o.from)
		datagrams.Put(buffer)
	}
}

// answer handles one datagram that came from a target; b has room for the
// header before it.
func (a *Association) answer(ctx context.Context, names *nameLookup, b []byte, from netip.AddrPort) {
	if a.o.Judge.Policy.Rules.Settings.ConnectDst && !a.peers.has(from) {
		a.count(dropUnsolicited)
		return
	}
	result := a.sendToClient(names, b, from)
	if result == unknownName {
		b := append([]byte(nil), b...)
		a.deferUntilResolved(ctx, func(names *nameLookup) drop { return a.sendToClient(names, b, from) })
		return
	}
	a.count(result)
}

// sendToClient judges a datagram of a peer and sends it to the client.
func (a *Association) sendToClient(names *nameLookup, b []byte, from netip.AddrPort) drop {
	client := a.client.Load() // there is one: its first datagram opened the socket
	names.unknown = false
	_, err := a.o.Judge.UDPReply(from, client.from, &names.Names)
	switch {
	case errors.Is(err, decide.ErrBlocked):
		return dropReplyBlocked
	case err != nil:
		return dropOf(err)
	}
	start := socks.MaxUDPHeaderIP - socks.UDPHeaderLen(from.Addr())
	if _, err := socks.AppendUDPHeader(b[start:start], socks.AddrOf(from)); err != nil {
		return dropMalformed // cannot be: an address is not too long
	}
	result := a.write(a.front, b[start:], client.from, client.at)
	if result == relayed {
		a.o.Down.Add(int64(len(b) - socks.MaxUDPHeaderIP))
		a.down.Add(1)
		a.o.Metrics.down.Inc()
	}
	return result
}

// deferUntilResolved goes on with a datagram that needs a name, unless too many wait.
func (a *Association) deferUntilResolved(ctx context.Context, relay func(*nameLookup) drop) {
	select {
	case a.waiting <- struct{}{}:
	default:
		a.count(dropWaiting)
		return
	}
	a.readers.Go(func() {
		defer func() { <-a.waiting }()
		names, cancel := blocking(ctx, a.o.Names, a.o.Judge.From.Addr())
		defer cancel()
		result := relay(names)
		if result == unknownName { // not in time
			result = dropUnresolved
		}
		a.count(result)
	})
}

// count counts a datagram that was dropped; one that was relayed is counted
// already.
func (a *Association) count(d drop) {
	if d != relayed {
		a.drops[d].Add(1)
		a.o.Metrics.dropped[d].Inc()
	}
}

// Stats are what an association has done so far.
type Stats struct {
	Client     netip.AddrPort // the zero AddrPort: no datagram was passed yet
	Advertised netip.AddrPort
	Up, Down   int64 // datagrams relayed
	Dropped    []Dropped
}

// Dropped is how many datagrams were dropped for one reason.
type Dropped struct {
	Reason string
	N      int64
}

// Stats returns what a has done so far.
func (a *Association) Stats() Stats {
	s := Stats{Advertised: a.advertised, Up: a.up.Load(), Down: a.down.Load()}
	if client := a.client.Load(); client != nil {
		s.Client = client.from
	}
	for d, reason := range dropReasons {
		if n := a.drops[d].Load(); n > 0 {
			s.Dropped = append(s.Dropped, Dropped{reason, n})
		}
	}
	return s
}
