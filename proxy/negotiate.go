package proxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"syscall"
	"time"

	"usher/proxy/decide"
	"usher/proxy/header"
	"usher/proxy/rules"
	"usher/proxy/socks"
	"usher/proxy/users"
)

// negotiate reads up to and including the request, within the deadline. On
// return the request's Version says whether the client awaits a reply.
func (s *session) negotiate(ctx context.Context) error {
	if err := s.readRequest(ctx); err != nil {
		return s.negotiationError(err)
	}
	s.setDeadline(time.Time{})
	s.requested = true
	return nil
}

func (s *session) readRequest(ctx context.Context) error {
	if !s.greeted {
		if err := s.greet(); err != nil || s.request.Version == socks.V4 {
			return err
		}
	} else if !s.gen.decide.Allows(s.clientRule, s.method) { // letIn has asked newer rules
		return errOtherMethod
	}
	if s.method == rules.Username {
		if err := s.authenticate(ctx); err != nil {
			return err
		}
	}
	var err error
	s.request, err = socks.ReadRequest(&s.ahead)
	return err
}

// awaitRequest greets a balancer that speaks for itself, and returns when it asks for
// something. Until then its connection is a health check.
func (s *session) awaitRequest() error {
	s.negotiateWithin(s.gen.policy.Rules.Settings.Timeouts.Negotiate)
	s.readFirst()
	if s.first.Version == socks.V4 || errors.Is(s.firstErr, socks.ErrVersion) { // more than a greeting
		return nil
	}
	err := s.greet()
	if err == nil {
		err = s.ahead.awaitByte() // io.EOF: the check is over
	}
	if err != nil {
		return s.negotiationError(err)
	}
	return nil
}

// readFirst reads the client's first message, unless it was read before.
func (o *opening) readFirst() {
	if !o.read {
		o.first, o.firstErr = socks.ReadOpening(&o.ahead)
		o.read = true
	}
}

// greet reads the client's first message, which is the whole request with SOCKS 4, and
// answers that of SOCKS 5 with a method.
func (s *session) greet() error {
	s.readFirst()
	err := s.firstErr
	if errors.Is(err, io.EOF) {
		return errNoGreeting
	}
	methods := s.gen.decide.Methods(s.clientRule)
	if s.first.Version == socks.V4 {
		s.request = s.first.Request
		s.request.Version = socks.V4 // also if it could not be read, as the reply has its form
		if err == nil {
			s.method, err = decide.Choose(methods, func(m rules.Method) bool { return m == rules.None })
		}
		return err
	}
	if err != nil {
		return err
	}
	s.greeted = true
	return s.chooseMethod(methods, s.first.Methods)
}

// chooseMethod takes the first of our methods that the client offers too, and tells it
// that one, or that there is none.
func (s *session) chooseMethod(ours []rules.Method, offered []socks.Method) error {
	wire := socks.NoAcceptable
	m, err := decide.Choose(ours, func(m rules.Method) bool { return slices.Contains(offered, methodOnWire(m)) })
	if err == nil {
		s.method, wire = m, methodOnWire(m)
	}
	if lost := s.leased(); lost != nil {
		return errors.Join(err, lost)
	}
	return errors.Join(err, socks.WriteMethod(s.client, wire))
}

// authenticate runs RFC 1929. All failures look the same to the client.
func (s *session) authenticate(ctx context.Context) error {
	c, err := socks.ReadCredentials(&s.ahead)
	if err != nil {
		return err
	}
	s.user = c.User
	ok, err := s.checkPassword(ctx, c)
	switch {
	case errors.Is(err, users.ErrThrottled):
		s.server.opts.Metrics.auth("throttled")
	case err != nil: // there is no verdict
		return err
	case ok:
		s.server.opts.Metrics.auth("ok")
	default:
		s.server.opts.Metrics.auth("failed")
		err = errCredentials
	}
	if lost := s.leased(); lost != nil {
		return lost
	}
	return errors.Join(err, socks.WriteAuth(s.client, ok))
}

// checkPassword reports whether c is right. If the client leaves while it waits
// for its turn, no hash is computed.
func (s *session) checkPassword(ctx context.Context, c socks.Credentials) (bool, error) {
	ctx, stop := s.waiting(ctx)
	defer stop()
	return s.server.guard.Check(ctx, s.gen.policy.Users, s.from.Addr(), c.User, c.Password)
}

// negotiationError tells what a read or write error means during negotiation.
func (s *session) negotiationError(err error) error {
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return errNegotiationTimeout
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF),
		errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return errClientClosed
	}
	var version *socks.VersionError
	if !errors.As(err, &version) {
		return err
	}
	begins := s.ahead.peek(version.Got)
	switch {
	case !header.Begins(begins):
		if what := protocolOf(begins); what != "" {
			return fmt.Errorf("%w: %s", err, what)
		}
		return err
	case s.server.trusted(addrPort(s.client.RemoteAddr()).Addr()):
		return fmt.Errorf("%w: if two balancers are in a row, let the second one read the header of the first, or let the first send none", errSecondHeader)
	case len(s.server.opts.TrustedProxies) > 0:
		return fmt.Errorf("%w: if it is a balancer, add it to USHER_PROXY_PROTOCOL_FROM", errForeign)
	}
	return fmt.Errorf("%w: if it is a balancer, set USHER_PROXY_PROTOCOL_FROM to its address", errForeign)
}

// protocolOf names what a client of another protocol begins with, or returns "".
func protocolOf(begins []byte) string {
	if len(begins) > 1 && begins[0] == 0x16 && begins[1] == 3 { // a handshake record of TLS 1.x (RFC 8446 section 5.1)
		return "a TLS hello"
	}
	for _, method := range []string{"GET ", "CONNECT ", "HEAD ", "POST ", "PUT ", "OPTIONS ", "DELETE ", "PATCH ", "TRACE ", "PRI "} {
		if bytes.HasPrefix(begins, []byte(method)) {
			return "an HTTP request"
		}
	}
	return ""
}

// methodOnWire is RFC 1928's number of a method.
func methodOnWire(m rules.Method) socks.Method {
	if m == rules.Username {
		return socks.Username
	}
	return socks.NoAuth
}
