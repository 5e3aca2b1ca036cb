package probe

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

	"usher/proxy/socks"
)

// answerer is the probe's own target. It answers the secret of a session with the other
// secret of that session. Anything else gets no answer.
type answerer struct {
	address netip.AddrPort // where the server is to connect or send to
	known   map[secret]*expected
	socket  io.Closer // nil: there is none
	stop    context.CancelFunc
	running sync.WaitGroup
}

type expected struct {
	answer secret
	came   atomic.Bool
}

// open listens at Bind, or else at local. BIND and sessions to a target of the
// caller's need no listener; BIND needs the address.
func open(ctx context.Context, o Options, local netip.Addr, sessions []*session) (*answerer, error) {
	a := &answerer{known: map[secret]*expected{}, stop: func() {}}
	if o.Target != nil {
		return a, nil
	}
	at := o.Bind
	if !at.IsValid() {
		at = local
	}
	public := at
	if public.IsUnspecified() {
		public = local
	}
	a.address = netip.AddrPortFrom(public, 0)
	if err := checkAddress(o, public); err != nil || o.Command == socks.Bind {
		return a, err
	}
	for _, s := range sessions {
		a.known[s.ping] = &expected{answer: s.pong}
	}
	ctx, a.stop = context.WithCancel(ctx)
	bound, err := a.listen(ctx, o.Command, netip.AddrPortFrom(at, 0))
	if err != nil {
		a.stop()
		return nil, fmt.Errorf("the probe cannot listen at %v: %w; choose an address of this machine with --bind", at, err)
	}
	a.address = netip.AddrPortFrom(public, bound.Port())
	return a, nil
}

func (a *answerer) listen(ctx context.Context, command socks.Command, at netip.AddrPort) (netip.AddrPort, error) {
	if command == socks.UDPAssociate {
		socket, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
		if err != nil {
			return at, err
		}
		a.socket = socket
		a.running.Go(func() { a.serveUDP(socket) })
		return addrPort(socket.LocalAddr()), nil
	}
	ln, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at))
	if err != nil {
		return at, err
	}
	a.socket = ln
	a.running.Go(func() { a.serveTCP(ctx, ln) })
	return addrPort(ln.Addr()), nil
}

// serveTCP answers until the listener is closed. Connections stay open until
// then, or until the server closes them.
func (a *answerer) serveTCP(ctx context.Context, ln *net.TCPListener) {
	for {
		conn, err := ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // such as no descriptor
			select {
			case <-time.After(10 * time.Millisecond):
				continue
			case <-ctx.Done():
				return
			}
		}
		a.running.Go(func() {
			defer conn.Close()
			defer context.AfterFunc(ctx, func() { conn.Close() })()
			var got secret
			if _, err := io.ReadFull(conn, got[:]); err != nil {
				return
			}
			if answer, ok := a.answer(got[:]); ok {
				if _, err := conn.Write(answer[:]); err == nil {
					io.Copy(io.Discard, conn) //nolint:errcheck // it waits for the end
				}
			}
		})
	}
}

// serveUDP answers until the socket is closed.
func (a *answerer) serveUDP(socket *net.UDPConn) {
	b := make([]byte, len(secret{})+1)
	for {
		n, from, err := socket.ReadFromUDPAddrPort(b)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if answer, ok := a.answer(b[:n]); err == nil && ok {
			socket.WriteToUDPAddrPort(answer[:], from) //nolint:errcheck // the client would ask again
		}
	}
}

// answer returns the answer to a known secret.
func (a *answerer) answer(got []byte) (secret, bool) {
	if len(got) != len(secret{}) {
		return secret{}, false
	}
	e, ok := a.known[secret(got)]
	if !ok {
		return secret{}, false
	}
	e.came.Store(true)
	return e.answer, true
}

// arrived reports whether the secret has arrived.
func (a *answerer) arrived(s secret) bool {
	e, ok := a.known[s]
	return ok && e.came.Load()
}

func (a *answerer) close() {
	a.stop()
	if a.socket != nil {
		a.socket.Close()
	}
	a.running.Wait()
}
