package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"syscall"
	"time"

	"usher/proxy/decide"
	"usher/proxy/fair"
	"usher/proxy/rules"
	"usher/proxy/sockopt"
	"usher/proxy/socks"
	"usher/proxy/users"
)

// start begins a session.
func (s *Server) start(client *net.TCPConn) {
	sess := &session{server: s, client: client, id: s.ids.Add(1), began: time.Now(), opening: newOpening(client)}
	ctx := sess.sockets.begin(client)
	if !s.table.add(sess) {
		_ = client.Close()
		return
	}
	s.evict(s.negotiators.enter(sess, fair.SourceOf(addrPort(client.RemoteAddr()).Addr()), s.mayNegotiate()))
	go sess.serve(ctx)
}

// serve is a session from accept to close.
func (s *session) serve(ctx context.Context) {
	var err error
	s.grant = s.server.opts.Limiter.NewGrant() // admitClient and admitRequest move it to what counts the session
	defer func() { s.finish(err) }()           // gives it back, and closes whatever has been opened until then
	relay, err := s.openApart(ctx)
	if err == nil {
		err = relay()
	}
}

// openApart is open on a goroutine of its own. Opening grows the stack, and a
// goroutine that waits keeps a grown stack until the second garbage collection, but
// most sessions spend most of their time in the relay. So serve has as little as
// possible on its stack. TestIdleSessionsHaveSmallStacks holds it to that.
func (s *session) openApart(ctx context.Context) (relay func() error, err error) {
	opened := make(chan struct{})
	go func() {
		defer close(opened)
		growStack()
		if relay, err = s.open(ctx); err != nil {
			s.refuse(s.sockets.cause(err))
		}
	}()
	<-opened
	return relay, err
}

// growStack makes room for deep calls on the stack of a new goroutine. A stack grows by
// being copied to one of twice the size. This costs least while few calls are on it.
//
//go:noinline
func growStack() {
	var room [6 << 10]byte // a stack of 8 KiB has room for it and for the calls until here
	runtime.KeepAlive(&room)
}

// finish ends a session, whatever has ended it: its sockets are closed, then its
// slot is given back, then it is logged, then the server forgets it.
func (s *session) finish(err error) {
	growStack()
	if err == nil && s.up.Load()+s.down.Load() > sockopt.Much {
		s.sockets.deliver()
	}
	err = s.sockets.cause(err) // why it was cut, not the error of the closed socket
	if err != nil {            // without an error everything was read
		discardPending(s.client)
	}
	s.sockets.close() // before the slot is free: no connection outlives the slot that counts it
	s.grant.Release()
	s.report(err)
	s.server.table.remove(s)
	s.server.table.running.Done()
}

// open does all steps up to the relay, see the package comment, and returns the
// relay.
func (s *session) open(ctx context.Context) (relay func() error, err error) {
	if err := s.receive(ctx); err != nil {
		return nil, err
	}
	connected, err := s.server.takePlaces(s)
	if err != nil {
		return nil, err
	}
	defer connected()
	for {
		if err := s.judgeAnew(ctx); err != nil {
			return nil, err
		}
		relay, err := s.fulfil(ctx)
		if !errors.Is(err, errOutdated) {
			return relay, err
		}
	}
}

// fulfil does what the client asks for. The error is errOutdated, and nothing was done,
// if newer rules have come into force before the session was admitted.
func (s *session) fulfil(ctx context.Context) (relay func() error, err error) {
	switch s.request.Command {
	case socks.Connect:
		return s.connect(ctx)
	case socks.Bind:
		return s.bind(ctx)
	case socks.UDPAssociate:
		return s.associate(ctx)
	}
	return nil, fmt.Errorf("%w: %d", errCommand, s.request.Command)
}

// receive does the steps from the PROXY header to the complete request. Until it
// returns, the session counts as negotiating.
func (s *session) receive(ctx context.Context) error {
	defer s.server.negotiators.leave(s)
	local, err := s.identify()
	if err != nil {
		return err
	}
	s.server.negotiators.identified(s)
	if err := s.judgeClient(ctx); err != nil {
		return err
	}
	if local { // the balancer is no client until it asks for something
		err = s.awaitRequest()
	} else {
		err = s.awaitClient()
	}
	if err != nil {
		return err
	}
	if err := s.letIn(ctx); err != nil {
		return err
	}
	if err := s.negotiate(ctx); err != nil {
		return err
	}
	return s.leased()
}

// judgeClient asks the client-rules. It has no other effect: it takes no slot and
// logs nothing.
func (s *session) judgeClient(ctx context.Context) error {
	names := &clientNames{sessionNames: sessionNames{session: s, ctx: ctx}}
	defer names.end()
	d := s.decision()
	v, err := d.Client(names.Init(names))
	s.clientRule = v.Rule
	if errors.Is(err, decide.ErrBlocked) {
		err = nil // letIn says so, unless this is a health check
	}
	return err
}

// awaitClient waits for the client's first byte, or until CheckGrace is over. A
// connection that ends before is a health check. For a client that is blocked it does
// not wait.
func (s *session) awaitClient() error {
	if !lets(s.clientRule) {
		return nil
	}
	s.setDeadline(s.began.Add(s.server.opts.CheckGrace))
	switch err := s.ahead.fill(); {
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET):
		return errNoGreeting
	case err != nil && !errors.Is(err, os.ErrDeadlineExceeded):
		return err
	}
	return nil
}

// lets reports whether a client-rule lets a client in. nil: none matched.
func lets(r *rules.Rule) bool { return r != nil && r.Pass }

// letIn makes the connection a client, by the rules in force: it is counted, charged to
// the client-rule's limit, and logged. If newer rules come into force before it has its
// slot, they are asked.
func (s *session) letIn(ctx context.Context) error {
	s.isClient = true
	for {
		if s.server.table.renew(s) {
			s.socksRule = nil
			if err := s.judgeClient(ctx); err != nil {
				return err
			}
		}
		if !lets(s.clientRule) {
			return s.blocked()
		}
		if err := s.admitClient(ctx); !errors.Is(err, errOutdated) {
			return err
		}
	}
}

// judgeAnew lets the client in again if newer rules have come into force since: they
// decide about its request. They must let the client use the method that it has used,
// and its password must be the same.
func (s *session) judgeAnew(ctx context.Context) error {
	if !s.server.table.outdated(s) {
		return nil
	}
	loggedIn := s.gen.policy.Users
	if err := s.letIn(ctx); err != nil {
		return err
	}
	if !s.gen.decide.Allows(s.clientRule, s.method) {
		return errOtherMethod
	}
	if s.method == rules.Username && !users.Same(loggedIn, s.gen.policy.Users, s.user) {
		return errLoginChanged
	}
	return s.leased()
}
