package probe

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"

	"usher/proxy/socks"
)

// proveBind asks the server to listen, connects to it as the peer, and exchanges
// secrets with itself.
func (s *session) proveBind(ctx context.Context, answer *answerer) {
	self := answer.address.Addr()
	to := socks.AddrOf(answer.address)
	if s.Names {
		to = socks.Addr{Name: self.String(), Port: to.Port}
	}
	bound := s.request(to)
	var peer net.Conn
	s.step("peer", fmt.Sprintf("the peer got no connection to %v", bound), func() (Kind, error) {
		dialer := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(self, 0))}
		var err error
		if peer, err = dialer.DialContext(ctx, "tcp", bound.String()); err != nil {
			return Nothing, fmt.Errorf("the peer of the BIND request cannot connect: %w", err)
		}
		s.others = append(s.others, peer)
		end, _ := ctx.Deadline()
		return Nothing, peer.SetDeadline(end)
	})
	s.step("second reply", "no second reply, though the peer has connected", func() (Kind, error) {
		_, err := s.reply()
		return Refused, err
	})
	s.step("data", "the secrets did not come through", func() (Kind, error) {
		if _, err := s.conn.Write(s.ping[:]); err != nil {
			return Nothing, err
		}
		if err := receive(peer, s.ping); err != nil {
			return Nothing, err
		}
		if _, err := peer.Write(s.pong[:]); err != nil {
			return Nothing, err
		}
		return Nothing, receive(s.conn, s.pong)
	})
}

// repeat is how long the probe waits for an answer before it sends a datagram
// again, because datagrams get lost.
const repeat = 250 * time.Millisecond

// proveUDP sends a datagram through an association, and requires the answer.
func (s *session) proveUDP(ctx context.Context, answer *answerer) {
	relay := s.request(socks.Addr{})
	s.step("data", "", func() (Kind, error) {
		local := net.UDPAddrFromAddrPort(netip.AddrPortFrom(s.local().Addr(), 0))
		if s.local().Addr().Is4() != relay.Addr().Is4() {
			local = nil
		}
		conn, err := net.DialUDP("udp", local, net.UDPAddrFromAddrPort(relay))
		if err != nil {
			return Nothing, err
		}
		s.others = append(s.others, conn)
		if err := s.askByUDP(ctx, conn, answer.address); err != nil {
			return Nothing, fmt.Errorf("through the UDP address %v: %w", relay, s.arrival(answer, err))
		}
		return "", nil
	})
}

func (s *session) askByUDP(ctx context.Context, conn *net.UDPConn, to netip.AddrPort) error {
	datagram, err := socks.AppendUDPHeader(nil, socks.AddrOf(to))
	if err != nil {
		return err
	}
	datagram = append(datagram, s.ping[:]...)
	end, _ := ctx.Deadline()
	b := make([]byte, 2<<10)
	for {
		if _, err := conn.Write(datagram); err != nil {
			return err
		}
		again := time.Now().Add(repeat)
		if again.After(end) {
			again = end
		}
		if err := conn.SetReadDeadline(again); err != nil {
			return err
		}
		switch err := s.awaitDatagram(conn, b); {
		case err == nil:
			return nil
		case !timedOut(err):
			return err
		case ctx.Err() != nil || !time.Now().Before(end):
			return context.DeadlineExceeded
		}
	}
}

// awaitDatagram reads until the answer arrives. It ignores other datagrams.
func (s *session) awaitDatagram(conn *net.UDPConn, b []byte) error {
	for {
		n, err := conn.Read(b)
		if err != nil {
			return err
		}
		d, err := socks.ParseDatagram(b[:n])
		if err == nil && d.Frag == 0 && string(d.Data) == string(s.pong[:]) {
			return nil
		}
	}
}
