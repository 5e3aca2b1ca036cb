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
func (s *session) negotiate(ctx context.Context, v rules.Verdict) error {
	if err := s.readRequest(ctx, v); err != nil {
		return s.negotiationError(err)
	}
	s.setDeadline(time.Time{})
	return nil
}

func (s *session) readRequest(ctx context.Context, v rules.Verdict) error {
	opening, err := socks.ContinueOpening(s.client, s.begun[:s.nBegun])
	if errors.Is(err, io.EOF) {
		return errNoGreeting
	}
	if !s.isClient && (opening.Version == socks.V4 || errors.Is(err, socks.ErrVersion)) { // more than a greeting
		if err := s.letIn(ctx, v); err != nil {
			return err
		}
	}
	methods := s.gen.decide.Methods(v.Rule)
	if opening.Version == socks.V4 {
		s.request = opening.Request
		s.request.Version = socks.V4 // also if it could not be read, as the reply has its form
		if err == nil {
			s.method, err = decide.Choose(methods, func(m rules.Method) bool { return m == rules.None })
		}
		return err
	}
	if err != nil {
		return err
	}
	if err := s.chooseMethod(methods, opening.Methods); err != nil {
		return err
	}
	if !s.isClient {
		if err := awaitByte(s.client); err != nil { // io.EOF: the check is over
			return err
		}
		if err := s.letIn(ctx, v); err != nil {
			return err
		}
	}
	if s.method == rules.Username {
		if err := s.authenticate(ctx); err != nil {
			return err
		}
	}
	s.request, err = socks.ReadRequest(s.client)
	return err
}

// chooseMethod takes the first of our methods that the client offers too.
func (s *session) chooseMethod(ours []rules.Method, offered []socks.Method) error {
	m, err := decide.Choose(ours, func(m rules.Method) bool { return slices.Contains(offered, methodOnWire(m)) })
	if err != nil {
		return errors.Join(err, s.tellMethod(socks.NoAcceptable))
	}
	s.method = m
	return s.tellMethod(methodOnWire(m))
}

func (s *session) tellMethod(wire socks.Method) error {
	if err := s.leased(); err != nil {
		return err
	}
	return socks.WriteMethod(s.client, wire)
}

// authenticate runs RFC 1929. All failures look the same to the client.
func (s *session) authenticate(ctx context.Context) error {
	c, err := socks.ReadCredentials(s.client)
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
	begins := peek(s.client, version.Got)
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
