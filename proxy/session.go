package proxy

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"usher/limiter"
	"usher/proxy/rules"
	"usher/proxy/socks"
)

// session is one client's connection from accept to close. Its fields belong
// to its goroutine, but for those marked.
type session struct {
	server *Server
	gen    *generation // for good
	id     uint64
	began  time.Time
	client *net.TCPConn
	end    context.CancelCauseFunc // from any goroutine: ends the session with a reason

	deadline   time.Time      // in force on client
	from, to   netip.AddrPort // who the client is and what it dialled, by the PROXY header if there is one
	probe      bool           // a balancer's health check: charged to nothing, not logged
	clientRule *rules.Rule    // nil: health check, or none matched
	method     rules.Method
	user       string        // as claimed until the password is checked
	request    socks.Request // Version 0 until it was read
	socksRule  *rules.Rule
	dialled    netip.AddrPort
	grant      *limiter.Grant // nil: nothing was admitted yet
	granted    bool           // the client was told that it is connected
	up, down   atomic.Int64   // bytes relayed to and from the target; others read them
}

// start begins a session.
func (s *Server) start(client *net.TCPConn) {
	sess := &session{server: s, client: client, id: s.ids.Add(1), began: time.Now()}
	if !s.table.add(sess) {
		_ = client.Close()
		return
	}
	go sess.live()
}

// live is the session's goroutine.
func (s *session) live() {
	defer s.server.table.running.Done()
	defer s.server.table.remove(s)
	ctx, cancel := context.WithCancelCause(s.server.base)
	defer cancel(nil)
	s.end = cancel
	defer context.AfterFunc(ctx, func() { _ = s.client.Close() })()
	err := s.run(ctx)
	if cause := context.Cause(ctx); cause != nil {
		err = cause // what it made of reads and dials says less
	}
	s.closeClient()
	s.report(err)
}

// run is the way of a session, see the package comment. It returns nil if
// both directions of the relay came to their end.
func (s *session) run(ctx context.Context) error {
	if err := s.identify(); err != nil {
		return err
	}
	if err := s.judgeClient(ctx); err != nil {
		return err
	}
	grant, err := s.admit(ctx)
	if err != nil {
		return err
	}
	defer grant.Release()
	defer s.closeClient() // before Release: what is counted must not outlive its slot
	s.grant = grant
	target, err := s.open(ctx, grant)
	if err != nil {
		// Who was cut (Drain, a lost lease) is not answered, whatever the cut
		// made of the read or dial that it met.
		s.refuse(causeOf(ctx, err))
		return err
	}
	defer func() { _ = target.Close() }()
	return s.relay(ctx, grant, target)
}

// judgeClient asks the client-rules, and sets the deadline of the negotiation.
func (s *session) judgeClient(ctx context.Context) error {
	if !s.probe {
		v := s.askClient(s.lookup(ctx))
		s.clientRule = v.Rule
		if !v.Pass() {
			return errBlocked
		}
		s.server.table.move(s, v.Rule, "negotiate")
	}
	if limit := s.gen.policy.timeouts(s.clientRule).Negotiate; limit > 0 {
		s.setDeadline(s.began.Add(limit))
	} else {
		s.setDeadline(time.Time{})
	}
	return nil
}

// admit takes the client-rule's slot.
func (s *session) admit(ctx context.Context) (*limiter.Grant, error) {
	limit := s.gen.limit(s.clientRule)
	if limit != (limiter.Limit{}) {
		defer s.watch()()
	}
	ctx, cancel := s.negotiating(ctx)
	defer cancel()
	grant, err := s.server.opts.Limiter.Admit(ctx, limit)
	if err != nil {
		return nil, causeOf(ctx, err)
	}
	if !s.probe {
		s.server.opts.Metrics.admit(s.clientRule, "negotiate", grant)
	}
	return grant, nil
}

// open reads the request and fulfils it: the target's connection, or why
// there is none.
func (s *session) open(ctx context.Context, grant *limiter.Grant) (*net.TCPConn, error) {
	if err := s.negotiate(ctx); err != nil {
		return nil, err
	}
	defer s.watch()()
	switch s.request.Command {
	case socks.Connect:
		return s.connect(ctx, grant)
	default: // BIND and UDP ASSOCIATE belong here
		return nil, fmt.Errorf("%w: %d", errCommand, s.request.Command)
	}
}

// connect fulfils CONNECT.
func (s *session) connect(ctx context.Context, grant *limiter.Grant) (*net.TCPConn, error) {
	target, addrs, err := s.resolve(ctx)
	if err != nil {
		return nil, err
	}
	v := s.askSocks(target, addrs, s.lookup(ctx))
	s.socksRule = v.Rule
	if !v.Pass() {
		return nil, errBlocked
	}
	if err := s.move(ctx, grant); err != nil {
		return nil, err
	}
	return s.dial(ctx, v.Addrs, target.Port)
}

// move charges the session to its socks-rule. A rule without a limit of its
// own inherits the client-rule's slot, which then is held to the session's
// end, unless the client-rule says otherwise.
func (s *session) move(ctx context.Context, grant *limiter.Grant) error {
	if s.probe {
		return nil
	}
	inherits := !s.socksRule.Session.Limited && s.clientRule.Session.Inheritable
	if !inherits {
		if err := grant.Move(ctx, s.gen.limit(s.socksRule)); err != nil {
			return causeOf(ctx, err)
		}
	}
	s.server.table.move(s, s.socksRule, "connect")
	s.server.opts.Metrics.admit(s.socksRule, "connect", grant)
	return nil
}

// refuse tells the client why not, if it has asked for anything.
func (s *session) refuse(err error) {
	code := outcomeOf(err).code
	if s.request.Version == 0 || code == silent {
		return
	}
	s.setDeadline(time.Now().Add(time.Second))
	// An error here says that the client has left, which changes nothing.
	_ = socks.WriteReply(s.client, socks.Reply{Version: s.request.Version, Code: code, Addr: unspecified})
}

var unspecified = socks.Addr{IP: netip.IPv4Unspecified()}

// closeClient closes the client's connection after it has taken what the
// client sent already: unread bytes would turn the close into a reset, and a
// reset may overtake the reply.
func (s *session) closeClient() {
	discardPending(s.client)
	_ = s.client.Close() // twice is fine
}

// setDeadline sets the absolute deadline of reads and writes on client; the
// zero time is none.
func (s *session) setDeadline(t time.Time) {
	s.deadline = t
	s.client.SetDeadline(t) //nolint:errcheck // it fails on a closed connection only
}

// negotiating returns a context that ends with the negotiation's deadline.
func (s *session) negotiating(ctx context.Context) (context.Context, context.CancelFunc) {
	if s.deadline.IsZero() {
		return context.WithCancel(ctx)
	}
	return context.WithDeadlineCause(ctx, s.deadline, errLate)
}

// causeOf returns why ctx ended, or err if it did not.
func causeOf(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}
