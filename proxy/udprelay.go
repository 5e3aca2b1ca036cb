package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"usher/proxy/decide"
	"usher/proxy/idle"
	"usher/proxy/relay"
	"usher/proxy/rules"
	"usher/proxy/socks"
)

// maxWaiting is how many datagrams of one association may wait for a name at
// a time; more are dropped.
const maxWaiting = 16

// association relays the datagrams of one client (RFC 1928 section 7). Each
// one is judged by the rules: the client's as udpassociate with its target,
// those that come back as udpreply from the peer to the client. What is
// dropped is counted by its reason, and ends nothing.
//
// It has a socket that faces the client, and one towards the targets for each
// family, opened by the first datagram that needs it. A goroutine reads each of
// them. A datagram that needs a name which is not known yet gets a goroutine of
// its own, so that the others need not wait.
type association struct {
	session *session
	judge   decide.Session // decides about each datagram
	front   *udpSocket
	told    netip.AddrPort // where the client sends to, as it was told
	expects udpClient
	client  atomic.Pointer[origin] // nil until the first datagram that the rules pass
	peers   peers
	waiting chan struct{} // has a token for each datagram that waits for a name

	up, down atomic.Int64            // datagrams relayed
	drops    [dropKinds]atomic.Int64 // and dropped, by reason

	idle    idle.Timer
	readers sync.WaitGroup // of sockets, and datagrams that wait for names
	failed  sync.Once
	err     error // the first one; to be read when all have ended

	mu     sync.Mutex
	back   map[bool]*udpSocket // by whether it is for IPv4
	closed bool
}

func newAssociation(s *session, expects udpClient, front *udpSocket, told netip.AddrPort) *association {
	a := &association{
		session: s, judge: s.decision(), front: front, told: told, expects: expects,
		waiting: make(chan struct{}, maxWaiting),
		back:    make(map[bool]*udpSocket),
	}
	a.judge.Machine = s.server.udp
	s.server.fronts.Add(front.local, told)
	return a
}

// Close closes the sockets. It never fails.
func (a *association) Close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return nil
	}
	a.closed = true
	a.session.server.fronts.Remove(a.front.local, a.told)
	a.front.close()
	for _, u := range a.back {
		u.close()
	}
	return nil
}

// relay relays until the client's connection ends or breaks, no datagram has
// passed for limit, or ctx ends.
func (a *association) relay(ctx context.Context, limit time.Duration) error {
	a.idle.Start(limit, func() { a.fail(relay.ErrIdle) })
	defer a.idle.Stop()
	a.readers.Go(func() { a.fail(a.readClient(ctx)) })
	if err := awaitEnd(a.session.client); errors.Is(err, io.EOF) {
		a.fail(errAssociationOver)
	} else {
		a.fail(fmt.Errorf("%w: %w", relay.ErrClient, err))
	}
	a.readers.Wait()
	return a.err
}

// fail ends the association, and with it the wait for its client's end.
func (a *association) fail(err error) {
	a.failed.Do(func() {
		a.err = err
		a.session.sockets.close()
	})
}

// readClient reads what comes from the client, or pretends to.
func (a *association) readClient(ctx context.Context) error {
	names := a.session.server.cachedOnly()
	for {
		buffer, n, o, err := a.front.read(0)
		if err != nil {
			return fmt.Errorf("%w: %w", relay.ErrClient, err)
		}
		a.receive(ctx, names, buffer[:n], o)
		datagrams.Put(buffer)
	}
}

// receive handles one datagram that came to the client's side.
func (a *association) receive(ctx context.Context, names *nameLookup, b []byte, o origin) {
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
		a.later(ctx, func(names *nameLookup) drop { return a.forward(ctx, names, o, target, data) })
		return
	}
	a.count(result)
}

// knows reports whether the client may be at from.
func (a *association) knows(from netip.AddrPort) bool {
	if c := a.client.Load(); c != nil {
		return c.from == from
	}
	return a.expects.allows(from)
}

// latch makes o the client's address for good, and reports whether it is.
// Answers leave from where this datagram arrived.
func (a *association) latch(o origin) bool {
	if a.client.Load() == nil {
		first := new(origin)
		*first = o
		a.client.CompareAndSwap(nil, first)
	}
	return a.client.Load().from == o.from
}

// forward judges a datagram of the client and sends it on.
func (a *association) forward(ctx context.Context, names *nameLookup, o origin, target rules.Target, data []byte) drop {
	names.unknown = false
	v, err := a.judge.Datagram(o.from, target, &names.Names)
	switch {
	case err != nil:
		return dropOf(err)
	case !a.latch(o):
		return dropForeign
	}
	result := dropUnresolved
	for _, addr := range v.Addrs {
		if result = a.send(ctx, netip.AddrPortFrom(addr, target.Port), data); result == relayed {
			a.session.up.Add(int64(len(data)))
			a.up.Add(1)
			a.session.server.opts.Metrics.datagramsUp.Inc()
			return relayed
		}
	}
	return result
}

// send sends a datagram to one address.
func (a *association) send(ctx context.Context, to netip.AddrPort, data []byte) drop {
	if err := a.judge.Sendable(rules.UDPAssociate, to); err != nil {
		return dropOf(err)
	}
	socket, err := a.backFor(ctx, to.Addr())
	if err != nil {
		return dropOf(err)
	}
	a.peers.add(to) // before its answer can come
	return a.write(socket, data, to, netip.Addr{})
}

// write sends a datagram in either direction.
func (a *association) write(socket *udpSocket, data []byte, to netip.AddrPort, source netip.Addr) drop {
	err := socket.write(data, to, source)
	switch {
	case err == nil:
		a.idle.Touch()
	case errors.Is(err, errLeaseLost):
		a.fail(err)
	}
	return dropOf(err)
}

// backFor returns the socket towards targets of the family of to.
func (a *association) backFor(ctx context.Context, to netip.Addr) (*udpSocket, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return nil, net.ErrClosed
	}
	if u := a.back[to.Is4()]; u != nil {
		return u, nil
	}
	from, err := a.judge.Source(to)
	if err != nil {
		return nil, err
	}
	if !from.IsValid() {
		from = netip.AddrPortFrom(netip.IPv6Unspecified(), 0)
		if to.Is4() {
			from = netip.AddrPortFrom(netip.IPv4Unspecified(), 0)
		}
	}
	u, err := listenUDP(from, a.session.valid)
	if err != nil {
		return nil, err
	}
	a.back[to.Is4()] = u
	a.readers.Go(func() { a.fail(a.readTargets(ctx, u)) })
	return u, nil
}

// readTargets reads what comes from the targets at one socket.
func (a *association) readTargets(ctx context.Context, back *udpSocket) error {
	names := a.session.server.cachedOnly()
	for {
		// A datagram that is too long for the rest of the buffer is cut off
		// here. It would be too long with its header, too, so the system
		// refuses to send it.
		buffer, n, o, err := back.read(socks.MaxUDPHeaderIP)
		if err != nil {
			return fmt.Errorf("%w: %w", relay.ErrTarget, err)
		}
		a.answer(ctx, names, buffer[:socks.MaxUDPHeaderIP+n], o.from)
		datagrams.Put(buffer)
	}
}

// answer handles one datagram that came from a target; b has room for the
// header before it.
func (a *association) answer(ctx context.Context, names *nameLookup, b []byte, from netip.AddrPort) {
	if a.session.gen.policy.Rules.Settings.ConnectDst && !a.peers.has(from) {
		a.count(dropUnsolicited)
		return
	}
	result := a.giveBack(names, b, from)
	if result == unknownName {
		b := append([]byte(nil), b...)
		a.later(ctx, func(names *nameLookup) drop { return a.giveBack(names, b, from) })
		return
	}
	a.count(result)
}

// giveBack judges a datagram of a peer and sends it to the client.
func (a *association) giveBack(names *nameLookup, b []byte, from netip.AddrPort) drop {
	client := a.client.Load() // there is one: its first datagram opened the socket
	names.unknown = false
	_, err := a.judge.UDPReply(from, client.from, &names.Names)
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
		a.session.down.Add(int64(len(b) - socks.MaxUDPHeaderIP))
		a.down.Add(1)
		a.session.server.opts.Metrics.datagramsDown.Inc()
	}
	return result
}

// later goes on with a datagram that needs a name, unless too many wait.
func (a *association) later(ctx context.Context, relay func(*nameLookup) drop) {
	select {
	case a.waiting <- struct{}{}:
	default:
		a.count(dropWaiting)
		return
	}
	a.readers.Go(func() {
		defer func() { <-a.waiting }()
		names, cancel := a.session.server.blocking(ctx)
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
func (a *association) count(d drop) {
	if d != relayed {
		a.drops[d].Add(1)
		a.session.server.opts.Metrics.datagramsDropped[d].Inc()
	}
}

// drop is why a datagram went no further.
type drop int

const (
	relayed drop = iota // it did not: it was relayed
	dropForeign
	dropMalformed
	dropFragment
	dropTarget
	dropSelf
	dropBlocked
	dropReplyBlocked
	dropUnsolicited
	dropUnresolved
	dropWaiting
	dropNoExternal
	dropTooLong
	dropLease
	dropSystem
	dropKinds

	unknownName // it waits for a name
)

// dropReasons are the words for drops in metrics and log lines.
var dropReasons = [dropKinds]string{
	dropForeign: "foreign", dropMalformed: "malformed", dropFragment: "fragment", dropTarget: "target",
	dropSelf: "self", dropBlocked: "blocked", dropReplyBlocked: "reply_blocked", dropUnsolicited: "unsolicited",
	dropUnresolved: "unresolved", dropWaiting: "waiting", dropNoExternal: "no_external", dropTooLong: "too_long",
	dropLease: "lease_lost", dropSystem: "system",
}

// dropOf returns what an error of a decision or of a socket means; nil is
// relayed.
func dropOf(err error) drop {
	switch {
	case err == nil:
		return relayed
	case errors.Is(err, errUnknownName):
		return unknownName
	case errors.Is(err, decide.ErrTarget):
		return dropTarget
	case errors.Is(err, decide.ErrUnresolved):
		return dropUnresolved
	case errors.Is(err, decide.ErrBlocked):
		return dropBlocked
	case errors.Is(err, decide.ErrSelf):
		return dropSelf
	case errors.Is(err, decide.ErrNoExternal), errors.Is(err, decide.ErrNoRoute):
		return dropNoExternal
	case errors.Is(err, errLeaseLost):
		return dropLease
	case errors.Is(err, syscall.EMSGSIZE):
		return dropTooLong
	}
	return dropSystem
}

// attrs are what a session's last line says of its association.
func (a *association) attrs() []slog.Attr {
	attrs := []slog.Attr{slog.String("udp_relay", a.told.String())}
	if client := a.client.Load(); client != nil {
		attrs = append(attrs, slog.String("udp_client", client.from.String()))
	}
	attrs = append(attrs, slog.Int64("datagrams_up", a.up.Load()), slog.Int64("datagrams_down", a.down.Load()))
	var dropped []any
	for d, reason := range dropReasons {
		if n := a.drops[d].Load(); n > 0 {
			dropped = append(dropped, slog.Int64(reason, n))
		}
	}
	if len(dropped) > 0 {
		attrs = append(attrs, slog.Group("dropped", dropped...))
	}
	return attrs
}
