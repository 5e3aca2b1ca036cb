// Package udp relays the datagrams of one SOCKS 5 client (RFC 1928 section 7). It
// knows no session: the caller passes functions that decide about datagrams, counters,
// and the TCP connection of the client. An association ends with that connection, and
// returns an error.
//
// A datagram of the client takes these steps, all in totarget.go:
//
//	front socket -> is it the client? -> header -> rules -> upstream socket -> target
//
// A datagram of a target takes these, all in toclient.go:
//
//	upstream socket -> was it contacted? -> rules -> header -> front socket -> client
//
// If a step fails, the datagram is dropped and counted, and the association continues.
// If the rules need a name that is not in the cache, a separate goroutine does the
// remaining steps for this datagram (names.go).
package udp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"usher/proxy/decide"
	"usher/proxy/idle"
	"usher/proxy/resolve"
	"usher/proxy/rules"
	"usher/proxy/selfaddr"
)

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
	// Control is the TCP connection of the client. When it ends, the association
	// ends, and the other way round.
	Control   net.Conn
	Client    Client          // whose datagrams are accepted
	Follow    time.Duration   // how long the client's port must be silent before another port of its address may take its place; 0: never
	Advertise []netip.Addr    // addresses to tell clients instead of Judge.Local, at most one of each family; may be empty
	Ports     rules.PortRange // ports to tell clients; zero: any
	// Heard has the client-facing addresses of all associations of the server. No
	// association may send there.
	Heard    *selfaddr.Set
	MayWrite func() bool   // asked before every system call that sends; nil: always
	Up, Down *atomic.Int64 // count the bytes relayed to and from targets
	Moved    *idle.Stamp   // touched at the start and with each datagram; nil: nobody wants to know
}

// Association relays the datagrams of one client. Each one is judged by the
// rules: the client's as udpassociate with its target, those that come back as
// udpreply from the peer to the client.
//
// It has a front socket, which faces the client, and an upstream socket for each
// address family, which the first datagram that needs it opens. One goroutine reads
// each of them, and one awaits the end of the client's connection.
type Association struct {
	o          Options
	front      *socket
	advertised netip.AddrPort // where the client is told to send
	client     sender
	peers      peers
	waiting    chan struct{} // has a token for each datagram that waits for a name

	up, down traffic
	drops    [dropKinds]atomic.Int64 // by reason

	idle    idle.Timer
	running sync.WaitGroup // readers of sockets, and datagrams that wait for names
	failed  sync.Once
	err     error // the first one; to be read when all have ended

	mu       sync.Mutex
	upstream map[bool]*socket // by whether it is for IPv4
	closed   bool
}

// Open opens the front socket. The error is ErrSocket, and ErrPorts if all ports
// are taken. The caller runs or closes the association.
func Open(o Options) (*Association, error) {
	front, advertised, err := openFront(o)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSocket, err)
	}
	return newAssociation(o, front, advertised), nil
}

func newAssociation(o Options, front *socket, advertised netip.AddrPort) *Association {
	if o.Moved == nil {
		o.Moved = new(idle.Stamp)
	}
	o.Heard.Add(front.local, advertised)
	return &Association{
		o: o, front: front, advertised: advertised,
		client:   sender{expected: o.Client, follow: o.Follow},
		waiting:  make(chan struct{}, maxWaiting),
		up:       traffic{bytes: o.Up, total: o.Metrics.up},
		down:     traffic{bytes: o.Down, total: o.Metrics.down},
		upstream: make(map[bool]*socket),
	}
}

// Advertised returns the address that the client is to send its datagrams to.
func (a *Association) Advertised() netip.AddrPort { return a.advertised }

// Run relays until the client's connection ends or breaks, or until no datagram has
// passed for limit. If limit is 0, there is none. It returns ErrEnded if the client has
// ended the connection. To end the association from outside, close the control
// connection and the association. Run may be called once.
func (a *Association) Run(ctx context.Context, limit time.Duration) error {
	a.idle.Start(limit, a.o.Moved, func() { a.fail(ErrIdle) })
	defer a.idle.Stop()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	a.running.Go(func() { a.fail(a.readClient(ctx)) })
	a.fail(a.awaitEnd())
	cancel() // datagrams stop waiting for names
	a.running.Wait()
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

// Close closes the sockets and never fails. It waits for datagrams in progress, so a
// goroutine that reads a socket must not call it.
func (a *Association) Close() error {
	a.mu.Lock()
	if a.closed {
		a.mu.Unlock()
		return nil
	}
	a.closed = true
	sockets := []*socket{a.front}
	for _, u := range a.upstream {
		sockets = append(sockets, u)
	}
	a.mu.Unlock() // a datagram in progress may need it
	a.o.Heard.Remove(a.front.local, a.advertised)
	for _, s := range sockets { // all of them first, because the reader of one may wait for room in another
		s.interrupt()
	}
	for _, s := range sockets {
		s.close()
	}
	return nil
}

// write sends a datagram, in either direction.
func (a *Association) write(socket *socket, data []byte, to netip.AddrPort, source netip.Addr) outcome {
	err := socket.write(data, to, source)
	switch {
	case err == nil:
		a.idle.Touch()
	case errors.Is(err, ErrMayWrite):
		a.running.Go(func() { a.fail(err) }) // in a goroutine, because it waits for the readers, and this may be one
	}
	return outcomeOf(err)
}
