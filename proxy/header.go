package proxy

import (
	"errors"
	"fmt"
	"io"
	"time"
	"unique"

	"usher/proxy/decide"
	"usher/proxy/header"
)

// headerTimeout is how long a balancer may take to send its PROXY header.
const headerTimeout = 3 * time.Second

// identify finds out who the client is and what it dialled: from a trusted
// balancer's PROXY header, else from the connection itself.
//
// After LOCAL the balancer speaks for itself, and the receiver must use the real
// addresses of the connection (PROXY protocol, section 2.2). The connection is a health
// check as long as it requests nothing (see isCheck), and a client at the balancer's
// own address from then on. local reports such a header.
//
// UNKNOWN, of version 1, stands for a client of another family as well (section 2.1).
// Such a connection is a client at the balancer's own address from the start.
func (s *session) identify() (local bool, err error) {
	s.from, s.to = addrPort(s.client.RemoteAddr()), addrPort(s.client.LocalAddr())
	if !s.server.trusted(s.from.Addr()) {
		return false, nil
	}
	s.setDeadline(s.began.Add(headerTimeout))
	h, err := header.Read(s.client)
	switch {
	case errors.Is(err, io.EOF):
		return false, errNoGreeting // a balancer that only tests whether the port is open
	case err != nil:
		return false, fmt.Errorf("%w: %w", errHeader, err)
	case h.Kind == header.Client:
		s.from, s.to = h.From, h.To
		s.via = unique.Make(h.To)
	}
	return h.Kind == header.Local, nil
}

// blocked returns the error for a client that no client-rule passes. A client that
// begins with a PROXY header may be a balancer that USHER_PROXY_PROTOCOL_FROM does not
// name. The error says so then.
func (s *session) blocked() error {
	if s.server.trusted(addrPort(s.client.RemoteAddr()).Addr()) || !header.Begins(s.ahead.peek(nil)) {
		return decide.ErrBlocked
	}
	return fmt.Errorf("%w: it sent a PROXY header; if it is a balancer, add it to USHER_PROXY_PROTOCOL_FROM", decide.ErrBlocked)
}
