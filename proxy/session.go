package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"usher/limiter"
	"usher/proxy/decide"
	"usher/proxy/relay"
	"usher/proxy/rules"
	"usher/proxy/socks"
	"usher/proxy/udp"
)

// session is one client's connection from accept to close. Its fields belong to
// one goroutine at a time: the one that opens the session, then the one that
// serves it. Those marked are safe for concurrent use.
type session struct {
	server *Server
	gen    *generation // for good
	id     uint64
	began  time.Time
	client *net.TCPConn
	end    context.CancelCauseFunc // safe: ends the session with a reason

	deadline  time.Time       // in force on client
	keptAlive rules.KeepAlive // the same

	check      bool           // the balancer's own connection, which has asked for nothing so far: see isCheck
	from, to   netip.AddrPort // who the client is and what it dialled, by the PROXY header if there is one
	clientRule *rules.Rule    // nil: not judged yet, or none matched
	method     rules.Method
	user       string        // as claimed until the password is checked
	request    socks.Request // Version 0 until it was read
	socksRule  *rules.Rule
	dialled    netip.AddrPort // CONNECT
	bound      netip.AddrPort // BIND: where the peer was awaited
	peer       netip.AddrPort // BIND: who came
	peerRule   *rules.Rule    // BIND: by which
	granted    bool           // the client was told that it is connected

	grant    *limiter.Grant   // nil: nothing was admitted yet
	valid    func() bool      // nil, or asked before every write: see fence
	udp      *udp.Association // nil but for UDP ASSOCIATE
	up, down atomic.Int64     // safe: bytes relayed to and from the target

	negotiatingIndex int // in negotiators.all, from 1; 0: not there; guarded by its mutex

	sockets sockets // safe: client and what else is open
}

// start begins a session.
func (s *Server) start(client *net.TCPConn) {
	ctx, cancel := context.WithCancelCause(s.base)
	sess := &session{server: s, client: client, keptAlive: rules.DefaultKeepAlive, id: s.ids.Add(1), began: time.Now(), end: cancel}
	sess.sockets.open = append(make([]io.Closer, 0, 2), client) // and a target
	if !s.table.add(sess) {
		cancel(nil)
		_ = client.Close()
		return
	}
	if out := s.negotiators.enter(sess); out != nil {
		out.end(errCrowded)
		s.turnAway("negotiating", errCrowded.Error())
	}
	go sess.begin(ctx, context.AfterFunc(ctx, sess.sockets.close))
}

// begin opens the session and hands it to serve. That has a goroutine of its own,
// as this one's stack has grown: a goroutine that waits keeps its stack until the
// second collection of garbage, and most sessions are in their relay most of the
// time. TestIdleSessionIsSmall and integration/bench/relay watch over it.
func (s *session) begin(ctx context.Context, uncouple func() bool) {
	relay, err := s.open(ctx)
	go s.serve(ctx, uncouple, relay, err)
}

// serve is the rest of a session: its relay, or the refusal if it was not opened,
// and its end.
func (s *session) serve(ctx context.Context, uncouple func() bool, relay func() error, err error) {
	defer s.leave()
	defer uncouple() // until then the end of ctx closes the sockets
	if err == nil {
		err = relay()
	} else {
		s.refuse(causeOf(ctx, err))
	}
	err = causeOf(ctx, err) // a session that was cut ends for that reason, whatever the cut made of it
	s.release(err)
	s.report(err)
}

// open is the way of a session up to its relay, which it returns, see the
// package comment.
func (s *session) open(ctx context.Context) (relay func() error, err error) {
	if err := s.receive(ctx); err != nil {
		return nil, err
	}
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

// receive is the way from the PROXY header to the complete request. Its end is
// the end of the place among those that negotiate.
func (s *session) receive(ctx context.Context) error {
	defer s.server.negotiators.leave(s)
	if err := s.identify(); err != nil {
		return err
	}
	verdict, err := s.judgeClient(ctx)
	if err != nil {
		return err
	}
	if !s.check { // a balancer that only looks whether we are well is no client
		if err := s.letIn(ctx, verdict); err != nil {
			return err
		}
	}
	if err := s.negotiate(ctx, verdict); err != nil {
		return err
	}
	return s.leased()
}

// release closes the sockets and then gives the slot back: what is counted must
// not outlive its slot. err is nil if the relay came to its end.
func (s *session) release(err error) {
	if err != nil { // else all was read, up to the client's end
		discardPending(s.client)
	}
	s.sockets.close()
	if s.grant != nil {
		s.grant.Release()
	}
}

// leave takes the session out of the server.
func (s *session) leave() {
	s.end(nil)
	s.server.table.remove(s)
	s.server.table.running.Done()
}

// judgeClient asks the client-rules, within the server's deadline of the
// negotiation: they may look names up. It takes nothing and tells nobody.
func (s *session) judgeClient(ctx context.Context) (rules.Verdict, error) {
	s.negotiateWithin(s.gen.policy.Rules.Settings.Timeouts.Negotiate)
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

// letIn does what the client-rules have decided. From here on the connection is
// a client's: counted, charged to the rule's limit, and logged.
func (s *session) letIn(ctx context.Context, v rules.Verdict) error {
	s.check = false
	if !v.Pass() {
		return decide.ErrBlocked
	}
	s.server.table.move(s, v.Rule, "negotiate")
	s.negotiateWithin(v.Rule.Timeouts.Negotiate)
	s.keepClientAlive(v.Rule.KeepAlives.Internal)
	return s.admit(ctx)
}

// negotiateWithin sets the deadline of the negotiation; 0 is none.
func (s *session) negotiateWithin(limit time.Duration) {
	if limit == 0 {
		s.setDeadline(time.Time{})
		return
	}
	s.setDeadline(s.began.Add(limit))
}

// admit takes the client-rule's slot.
func (s *session) admit(ctx context.Context) error {
	limit := s.gen.limit(s.clientRule, s.from.Addr(), "")
	if limit != (limiter.Limit{}) {
		var stop func()
		ctx, stop = s.waiting(ctx)
		defer stop()
	}
	grant, err := s.server.opts.Limiter.Admit(ctx, limit)
	if err != nil {
		return causeOf(ctx, err)
	}
	s.grant = grant
	s.fence()
	s.server.opts.Metrics.admit(s.clientRule, "negotiate", grant)
	return nil
}

// fence lets the session end with the lease of the slot that it has now.
func (s *session) fence() {
	if s.server.opts.Limiter.Strict() {
		s.valid = s.grant.Valid
		s.grant.WhenLost(func() { s.end(errLeaseLost) })
	}
}

// leased returns errLeaseLost if others may have been given the session's slot.
// It is asked right before each write to the client; relays, which write for
// themselves, ask valid.
func (s *session) leased() error {
	if s.valid != nil && !s.valid() {
		return errLeaseLost
	}
	return nil
}

// connect fulfils CONNECT.
func (s *session) connect(ctx context.Context) (relay func() error, err error) {
	target, err := s.dialTarget(ctx)
	if err != nil {
		return nil, err
	}
	s.sockets.hold(target)
	if err := s.succeed(socks.AddrOf(addrPort(target.LocalAddr()))); err != nil {
		return nil, err
	}
	return s.relayTo(target, s.socksRule.Timeouts.IO), nil
}

// relayTo returns the relay between the client and its target or peer.
func (s *session) relayTo(target *net.TCPConn, idle time.Duration) func() error {
	return relay.New(s.client, target, relay.Options{Idle: idle, MayWrite: s.valid, Up: &s.up, Down: &s.down}).Run
}

// dialTarget connects to what the client asks for. timeout.connect is for all of it:
// the server's for names, that of the rule for the connection, from here on.
func (s *session) dialTarget(ctx context.Context) (*net.TCPConn, error) {
	defer s.watch(true)()
	began := time.Now()
	usual := s.gen.policy.Rules.Settings.Timeouts.Connect
	naming, cancel := connecting(ctx, began, usual)
	defer cancel()
	d, target := s.decision(), decide.Target(s.request.Addr)
	v, err := d.Connect(target, s.names(naming))
	s.socksRule = v.Rule
	if err != nil {
		return nil, err
	}
	if err := s.move(ctx); err != nil {
		return nil, err
	}
	dialling := naming
	if limit := s.socksRule.Timeouts.Connect; limit != usual {
		dialling, cancel = connecting(ctx, began, limit)
		defer cancel()
	}
	return s.dial(dialling, &d, v.Addrs, target.Port)
}

// move charges the session to its socks-rule. A rule without a limit of its
// own inherits the client-rule's slot, which then is held to the session's
// end, unless the client-rule says otherwise.
func (s *session) move(ctx context.Context) error {
	if !decide.Inherits(s.clientRule, s.socksRule) {
		if err := s.grant.Move(ctx, s.gen.limit(s.socksRule, s.from.Addr(), s.user)); err != nil {
			return causeOf(ctx, err)
		}
	}
	s.fence()
	s.keepClientAliveBy(s.socksRule)
	command := commandName(s.request.Command)
	s.server.table.move(s, s.socksRule, command)
	s.server.opts.Metrics.admit(s.socksRule, command, s.grant)
	return nil
}

// reply tells the client that its request goes well; addr is BND.
func (s *session) reply(addr socks.Addr) error {
	if err := s.leased(); err != nil {
		return err
	}
	reply := socks.Reply{Version: s.request.Version, Code: socks.Succeeded, Addr: addr}
	if err := socks.WriteReply(s.client, reply); err != nil {
		return fmt.Errorf("%w: %w", errGone, err)
	}
	return nil
}

// succeed is the last reply before the relay.
func (s *session) succeed(addr socks.Addr) error {
	if err := s.reply(addr); err != nil {
		return err
	}
	s.granted = true
	s.reportConnected()
	return nil
}

// refuse tells the client why not, if it has asked for anything. Without the
// lease it learns it by the end of its connection.
func (s *session) refuse(err error) {
	code := outcomeOf(err).code
	if s.request.Version == 0 || code == silent {
		return
	}
	s.setDeadline(time.Now().Add(time.Second))
	if s.leased() != nil {
		return
	}
	// An error here says that the client has left, which changes nothing.
	_ = socks.WriteReply(s.client, socks.Reply{Version: s.request.Version, Code: code, Addr: unspecified})
}

var unspecified = socks.Addr{IP: netip.IPv4Unspecified()}

// setDeadline sets the absolute deadline of reads and writes on client; the
// zero time is none.
func (s *session) setDeadline(t time.Time) {
	if t == s.deadline {
		return
	}
	s.deadline = t
	s.client.SetDeadline(t) //nolint:errcheck // it fails on a closed connection only
}

// waiting begins a wait of the negotiation for somebody else than the client,
// which most sessions do without: it ends with the negotiation's deadline, and
// the session ends if the client hangs up meanwhile.
func (s *session) waiting(ctx context.Context) (_ context.Context, stop func()) {
	unwatch := s.watch(true)
	cancel := func() {}
	if !s.deadline.IsZero() {
		ctx, cancel = context.WithDeadlineCause(ctx, s.deadline, errLate)
	}
	return ctx, func() { cancel(); unwatch() }
}

// connecting returns a context that ends with timeout.connect, counted from
// began; 0 is never.
func connecting(ctx context.Context, began time.Time, limit time.Duration) (context.Context, context.CancelFunc) {
	if limit == 0 {
		return context.WithCancel(ctx)
	}
	return context.WithDeadlineCause(ctx, began.Add(limit), errConnectTime)
}

// causeOf returns why ctx ended, or err if it did not.
func causeOf(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}
