package proxy

import (
	"context"
	"net"
	"net/netip"
	"time"

	"usher/proxy/decide"
	"usher/proxy/relay"
	"usher/proxy/rules"
	"usher/proxy/sockopt"
	"usher/proxy/socks"
)

// minAttempt is the least time that one of several addresses gets, so that
// the first ones of a long list have a chance.
const minAttempt = 2 * time.Second

// connect fulfils CONNECT.
func (s *session) connect(ctx context.Context) (relay func() error, err error) {
	target, err := s.dialTarget(ctx)
	if err != nil {
		return nil, err
	}
	s.sockets.closeOnEnd(target)
	if err := s.succeed(socks.AddrOf(addrPort(target.LocalAddr()))); err != nil {
		return nil, err
	}
	return s.relayTo(target, s.socksRule.Timeouts.IO), nil
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

// dial connects to the first of addrs that answers. The error is the last
// one's, unless a host has answered and refused: that says more than that
// another one could not be reached.
func (s *session) dial(ctx context.Context, d *decide.Session, addrs []netip.Addr, port uint16) (*net.TCPConn, error) {
	var err error = decide.ErrUnresolved // unless there is an address, which the rules see to
	for i, a := range addrs {
		to := netip.AddrPortFrom(a, port)
		target, failed := s.dialOne(ctx, d, to, len(addrs)-i)
		if failed == nil {
			s.dialled = to
			return target, nil
		}
		if cause := context.Cause(ctx); cause != nil {
			return nil, cause
		}
		if outcomeOf(err).code != socks.ConnectionRefused {
			err = failed
		}
	}
	return nil, err
}

// dialOne connects to one address; left is how many there are to try, with it.
func (s *session) dialOne(ctx context.Context, d *decide.Session, to netip.AddrPort, left int) (*net.TCPConn, error) {
	from, err := d.Reach(rules.Connect, to)
	if err != nil {
		return nil, err
	}
	if end, ok := ctx.Deadline(); ok && left > 1 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, share(time.Until(end), left))
		defer cancel()
	}
	dialer := sockopt.Dialer(from, keepAliveOf(s.socksRule.KeepAlives.External))
	conn, err := dialer.DialContext(ctx, "tcp", to.String())
	if err != nil {
		return nil, err
	}
	if s.server.awaiting.Reached(to) { // since we began to connect
		_ = conn.Close()
		return nil, decide.ErrSelf
	}
	return conn.(*net.TCPConn), nil
}

// share returns what one address gets of the time for left of them.
func share(all time.Duration, left int) time.Duration {
	return max(all/time.Duration(left), minAttempt)
}

// relayTo returns the relay between the client and its target or peer.
func (s *session) relayTo(target *net.TCPConn, idle time.Duration) func() error {
	return relay.New(s.client, target, relay.Options{Idle: idle, MayWrite: s.valid, Up: &s.up, Down: &s.down}).Run
}
