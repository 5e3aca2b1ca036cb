package proxy

import (
	"context"
	"net"
	"net/netip"
	"time"

	"usher/proxy/decide"
	"usher/proxy/rules"
	"usher/proxy/sockopt"
	"usher/proxy/socks"
)

// minAttempt is the least time that one of several addresses gets, so that
// the first ones of a long list have a chance.
const minAttempt = 2 * time.Second

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
	conn, err := sockopt.Dialer(from, keepAliveOf(s.socksRule.KeepAlives.External)).DialContext(ctx, "tcp", to.String())
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

// accepted returns the address of this machine that the client's connection
// came in on.
func (s *session) accepted() netip.Addr { return addrPort(s.client.LocalAddr()).Addr() }

// zoned returns a with the zone that the client's connection came in by, if a
// is link-local: else the system could not tell on which interface it is.
// Nothing else here knows zones, neither SOCKS nor the rules.
func (s *session) zoned(a netip.Addr) netip.Addr {
	if local, ok := s.client.LocalAddr().(*net.TCPAddr); ok && a.Is6() && a.IsLinkLocalUnicast() {
		return a.WithZone(local.Zone)
	}
	return a
}
