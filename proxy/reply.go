package proxy

import (
	"fmt"
	"net/netip"
	"time"

	"usher/proxy/socks"
)

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
