package proxy

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

	"usher/limiter"
	"usher/proxy/decide"
	"usher/proxy/rules"
	"usher/proxy/socks"
)

// session is one client's connection from accept to close. Its fields belong
// to its first goroutine until the tasks begin, and are not written after
// that, but for those marked.
type session struct {
	server   *Server
	gen      *generation // for good
	id       uint64
	began    time.Time
	client   *net.TCPConn
	end      context.CancelCauseFunc // from any goroutine: ends the session with a reason
	uncouple func() bool             // end closes no sockets any more

	deadline   time.Time       // in force on client
	keptAlive  rules.KeepAlive // the same
	from, to   netip.AddrPort  // who the client is and what it dialled, by the PROXY header if there is one
	check      bool            // the balancer's own connection, which has asked for nothing so far: see isCheck
	clientRule *rules.Rule     // nil: not judged yet, or none matched
	method     rules.Method
	user       string        // as claimed until the password is checked
	request    socks.Request // Version 0 until it was read
	socksRule  *rules.Rule
	dialled    netip.AddrPort // CONNECT
	bound      netip.AddrPort // BIND: where the peer was awaited
	peer       netip.AddrPort // BIND: who came
	peerRule   *rules.Rule    // BIND: by which
	grant      *limiter.Grant // nil: nothing was admitted yet
	valid      func() bool    // nil, or asked before every write: see fence
	udp        *association   // nil but for UDP ASSOCIATE
	granted    bool           // the client was told that it is connected

	tasks     atomic.Int32  // that have not ended; from any goroutine, as the rest
	up, down  atomic.Int64  // bytes relayed to and from the target
	moved     atomic.Int64  // when a byte last moved: nanoseconds since began
	idleLimit time.Duration // 0: idleness ends nothing

	lot int // among the negotiators, from 1; 0: not among them; theirs

	mu        sync.Mutex
	sockets   []io.Closer // apart from client; see hold
	closed    bool        // client and sockets
	idleTimer *time.Timer
}

// task is a part of a session that goes on when its first goroutine has ended:
// one direction of a relay. It returns at its end; an error ends the session
// with all its tasks, nil is the end of this one alone. A task that is blocked
// when the session ends is woken as its sockets are closed.
type task func() error

// start begins a session.
func (s *Server) start(client *net.TCPConn) {
	ctx, cancel := context.WithCancelCause(s.base)
	sess := &session{server: s, client: client, keptAlive: rules.DefaultKeepAlive, id: s.ids.Add(1), began: time.Now(), end: cancel}
	if !s.table.add(sess) {
		cancel(nil)
		_ = client.Close()
		return
	}
	if out := s.negotiators.enter(sess); out != nil {
		out.end(errCrowded)
		s.turnAway("negotiating", errCrowded.Error())
	}
	go sess.live(ctx)
}

// live is the session's first goroutine. It ends before the tasks begin: its
// stack has grown, and a goroutine that waits keeps what it has.
func (s *session) live(ctx context.Context) {
	s.uncouple = context.AfterFunc(ctx, s.closeSockets)
	tasks, err := s.run(ctx)
	if err != nil {
		// Who was cut (Drain, a lost lease) is not answered, whatever the cut
		// made of the read or dial that it met.
		err = causeOf(ctx, err)
		s.refuse(err)
		s.finish(err)
		return
	}
	s.tasks.Store(int32(len(tasks)))
	for _, t := range tasks {
		go s.carry(ctx, t)
	}
}

// run is the way of a session up to where its tasks begin, see the package
// comment.
func (s *session) run(ctx context.Context) ([]task, error) {
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

// carry is the goroutine of one task. The last one to end finishes the session.
func (s *session) carry(ctx context.Context, t task) {
	if err := t(); err != nil {
		s.end(err)
	}
	if s.tasks.Add(-1) == 0 {
		s.finish(context.Cause(ctx))
	}
}

// add begins one more task. Only a task that has not ended may call it.
func (s *session) add(ctx context.Context, t task) {
	s.tasks.Add(1)
	go s.carry(ctx, t)
}

// finish is the end of every session; err is nil if all its tasks came to
// their end. What is counted must not outlive its slot: the sockets are closed
// before it is given back.
func (s *session) finish(err error) {
	if err != nil { // else all was read, up to the client's end
		discardPending(s.client)
	}
	s.closeSockets()
	if s.grant != nil {
		s.grant.Release()
	}
	s.report(err)
	s.uncouple()
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
// It is asked right before each write to the client; the tasks, which write for
// themselves, ask valid.
func (s *session) leased() error {
	if s.valid != nil && !s.valid() {
		return errLeaseLost
	}
	return nil
}

// connect fulfils CONNECT.
func (s *session) connect(ctx context.Context) ([]task, error) {
	target, err := s.reach(ctx)
	if err != nil {
		return nil, err
	}
	s.hold(target)
	if err := s.succeed(socks.AddrOf(addrPort(target.LocalAddr()))); err != nil {
		return nil, err
	}
	return s.relay(target, s.socksRule.Timeouts.IO), nil
}

// reach connects to what the client asks for. timeout.connect is for all of it:
// the server's for names, that of the rule for the connection, from here on.
func (s *session) reach(ctx context.Context) (*net.TCPConn, error) {
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

// succeed is the last reply before the session's tasks begin.
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
