package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"usher/proxy/decide"
	"usher/proxy/race"
	"usher/proxy/rules"
	"usher/proxy/selfaddr"
	"usher/proxy/sockopt"
	"usher/proxy/socks"
)

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
	return s.relayTo(target, s.socksRule.Timeouts), nil
}

// dialTarget connects to what the client asks for. timeout.connect covers the whole
// step. The value of the settings applies until a rule has matched, and then the value
// of the rule.
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
	if err := s.admitRequest(ctx); err != nil {
		return nil, err
	}
	dialling := naming
	if limit := s.socksRule.Timeouts.Connect; limit != usual {
		dialling, cancel = connecting(ctx, began, limit)
		defer cancel()
	}
	return s.dial(dialling, &d, v.Addrs, target.Port)
}

// dial connects to the first of addrs that answers, see race.Dial. If none answers,
// dial returns the error of an address that refused the connection, because a refusal
// says more than an unreachable host. If none refused, it returns the last error.
func (s *session) dial(ctx context.Context, d *decide.Session, addrs []netip.Addr, port uint16) (*net.TCPConn, error) {
	if len(addrs) == 0 { // the rules pass at least one
		return nil, decide.ErrUnresolved
	}
	target, at, failures := race.Dial(ctx, addrs, func(a netip.Addr) (race.Connect, error) {
		return attempt(s, d, netip.AddrPortFrom(a, port))
	})
	if len(addrs) > 1 {
		s.dialled.failed = describe(failures)
	}
	if target != nil {
		s.dialled.at = netip.AddrPortFrom(at, port)
		s.server.young.Add(target, keepAliveOf(s.socksRule.KeepAlives.External))
		return target, nil
	}
	if cause := context.Cause(ctx); cause != nil {
		return nil, cause
	}
	for _, f := range failures {
		if outcomeOf(f.Err).code == socks.ConnectionRefused {
			return nil, f.Err
		}
	}
	return nil, failures[len(failures)-1].Err
}

// attempt returns a function that connects to one address. Several of them may run
// at a time, so they use only what is safe for concurrent use.
func attempt(s *session, d *decide.Session, to netip.AddrPort) (race.Connect, error) {
	from, err := d.Reach(rules.Connect, to)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) (*net.TCPConn, error) {
		dialer := sockopt.Dialer(from)
		conn, err := dialer.DialContext(ctx, "tcp", to.String())
		if err != nil {
			return nil, withPorts(err, from.Addr(), to.Addr())
		}
		if s.server.awaiting.Reached(to) { // by now a session may wait for its peer there
			_ = conn.Close()
			return nil, decide.ErrSelf
		}
		return conn.(*net.TCPConn), nil
	}, nil
}

// withPorts tells two meanings of EADDRNOTAVAIL apart: all ports towards the
// target are in use, which is errLocalPorts, or this machine has no address to come
// from. from is the address that was asked for, if any.
func withPorts(err error, from, to netip.Addr) error {
	if !errors.Is(err, syscall.EADDRNOTAVAIL) {
		return err
	}
	if from.IsValid() && !selfaddr.IsLocal(from) {
		return err
	}
	if _, noRoute := selfaddr.Toward(to); noRoute != nil {
		return err
	}
	return fmt.Errorf("%w: %w", errLocalPorts, err)
}
