package proxy

import (
	"fmt"
	"net/netip"
	"time"

	"usher/proxy/socks"
)

// reply sends a success reply. addr is BND.ADDR and BND.PORT of RFC 1928.
func (s *session) reply(addr socks.Addr) error {
	if err := s.leased(); err != nil {
		return err
	}
	reply := socks.Reply{Version: s.request.Version, Code: socks.Succeeded, Addr: addr}
	if err := socks.WriteReply(s.client, reply); err != nil {
		return fmt.Errorf("%w: %w", errClientClosed, err)
	}
	return nil
}

// succeed sends the last reply before the relay.
func (s *session) succeed(addr socks.Addr) error {
	if err := s.reply(addr); err != nil {
		return err
	}
	s.server.table.setConnected(s)
	s.reportConnected()
	return nil
}

// refuse sends the reply for err, if the client has made a request. Without a valid
// lease it sends nothing, and the client only sees the connection close.
func (s *session) refuse(err error) {
	code := outcomeOf(err).code
	if s.request.Version == 0 || code == silent {
		return
	}
	s.setDeadline(time.Now().Add(time.Second))
	if s.leased() != nil {
		return
	}
	// An error means that the client has closed, which changes nothing.
	_ = socks.WriteReply(s.client, socks.Reply{Version: s.request.Version, Code: code, Addr: unspecified})
}

var unspecified = socks.Addr{IP: netip.IPv4Unspecified()}
