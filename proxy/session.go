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
	"usher/proxy/socks"
)

// start begins a session.
func (s *Server) start(client *net.TCPConn) {
	sess := &session{server: s, client: client, id: s.ids.Add(1), began: time.Now(), opening: &opening{keptAlive: rules.DefaultKeepAlive}}
	ctx := sess.sockets.begin(client)
	if !s.add(sess) {
		_ = client.Close()
		return
	}
	s.evict(s.negotiators.enter(sess, fair.SourceOf(addrPort(client.RemoteAddr()).Addr()), s.mayNegotiate()))
	go sess.serve(ctx)
}

// add gives sess the policy in force, after a Hold. It reports false if the server has
// stopped.
func (s *Server) add(sess *session) bool {
	s.held.RLock()
	defer s.held.RUnlock()
	return s.table.add(sess)
}

// serve is a session from accept to close.
func (s *session) serve(ctx context.Context) {
	var err error
	defer func() { s.finish(err) }() // whatever has been opened until then
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
	err = s.sockets.cause(err) // why it was cut, not the error of the closed socket
	s.release(err)
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
	verdict, err := s.judgeClient(ctx)
	if err != nil {
		return err
	}
	if local { // the balancer is no client until it asks for something
		s.negotiateWithin(s.gen.policy.Rules.Settings.Timeouts.Negotiate)
	} else if err := s.awaitClient(ctx, verdict); err != nil {
		return err
	}
	if err := s.negotiate(ctx, verdict); err != nil {
		return err
	}
	return s.leased()
}

// release closes the sockets and then gives the slot back, so that no connection
// outlives the slot that counts it. err is nil if both directions have ended.
func (s *session) release(err error) {
	if err != nil { // without an error everything was read
		discardPending(s.client)
	}
	s.sockets.close()
	if s.grant != nil {
		s.grant.Release()
	}
}

// judgeClient asks the client-rules. It has no other effect: it takes no slot and
// logs nothing.
func (s *session) judgeClient(ctx context.Context) (rules.Verdict, error) {
	names := &clientNames{sessionNames: sessionNames{session: s, ctx: ctx}}
	defer names.end()
	d := s.decision()
	v, err := d.Client(names.Init(names))
	s.clientRule = v.Rule
	if errors.Is(err, decide.ErrBlocked) {
		err = nil // letIn says so, unless this is a health check
	}
	return v, err
}

// awaitClient lets the client in with its first byte, or when CheckGrace is over. A
// connection that ends before is a health check. A client that is blocked is closed at
// once.
func (s *session) awaitClient(ctx context.Context, v rules.Verdict) error {
	if v.Pass() {
		s.setDeadline(s.began.Add(s.server.opts.CheckGrace))
		n, err := s.client.Read(s.begun[:])
		s.nBegun = int8(n)
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET):
			return errNoGreeting
		case err != nil && !errors.Is(err, os.ErrDeadlineExceeded):
			return err
		}
	}
	return s.letIn(ctx, v)
}

// letIn applies the verdict of the client-rules. From here on the connection is a
// client: it is counted, charged to the rule's limit, and logged.
func (s *session) letIn(ctx context.Context, v rules.Verdict) error {
	s.isClient = true
	if !v.Pass() {
		return s.blocked()
	}
	s.server.table.setStage(s, v.Rule, 0)
	s.negotiateWithin(v.Rule.Timeouts.Negotiate)
	s.keepClientAlive(v.Rule.KeepAlives.Internal)
	return s.admitClient(ctx)
}
