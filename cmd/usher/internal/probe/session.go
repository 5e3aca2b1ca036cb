package probe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"time"

	"usher/proxy/socks"
)

// session is one session through the server. It belongs to one goroutine.
type session struct {
	Options
	ping, pong secret // what the client and its target send

	conn    *net.TCPConn // nil: not reached
	others  []io.Closer  // further sockets of the session
	steps   []Step
	failure *failure // nil: none so far
}

// step runs a stage unless one before it has failed. do returns the failure, or nil.
// what says what the server had to do, for the error when the time is over.
func (s *session) step(name, what string, do func() (Kind, error)) {
	if s.failure != nil {
		return
	}
	began := time.Now()
	kind, err := do()
	step := Step{Name: name, Seconds: time.Since(began).Seconds()}
	if err != nil {
		s.failure = &failure{kind, explain(err)}
		if timedOut(err) {
			if kind != Nothing {
				s.failure.kind = Timeout
			}
			s.failure.detail = fmt.Sprintf("%s within %v", what, s.Timeout)
		}
		step.Error = s.failure.String()
	}
	s.steps = append(s.steps, step)
}

// explain puts the common errors of a connection into words.
func explain(err error) string {
	var version *socks.VersionError
	switch {
	case errors.As(err, &version):
		return fmt.Sprintf("the answer begins with %#02x, which is not SOCKS", version.Got[0])
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "the server closed the connection"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "the server reset the connection"
	}
	return err.Error()
}

// reach connects to the server.
func (s *session) reach(ctx context.Context, address string) {
	s.step("connect", "no connection to "+address, func() (Kind, error) {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
		if err != nil {
			return Unreachable, err
		}
		s.conn = conn.(*net.TCPConn)
		end, _ := ctx.Deadline()
		return Unreachable, s.conn.SetDeadline(end)
	})
}

func (s *session) server() netip.AddrPort { return addrPort(s.conn.RemoteAddr()) }
func (s *session) local() netip.AddrPort  { return addrPort(s.conn.LocalAddr()) }

// addrPort returns an address without its zone, which has no meaning on another
// machine.
func addrPort(a net.Addr) netip.AddrPort {
	var ap netip.AddrPort
	switch a := a.(type) {
	case *net.TCPAddr:
		ap = a.AddrPort()
	case *net.UDPAddr:
		ap = a.AddrPort()
	}
	return netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port())
}

// run negotiates and proves that the session forwards. The session stays open.
func (s *session) run(ctx context.Context, answer *answerer) {
	if s.Version == socks.V5 {
		s.greet()
	}
	switch s.Command {
	case socks.Bind:
		s.proveBind(ctx, answer)
	case socks.UDPAssociate:
		s.proveUDP(ctx, answer)
	default:
		s.proveConnect(ctx, answer)
	}
}

// greet offers one method, and logs in with it. A probe with a user does not offer the
// method none, because it must show that the user can log in.
func (s *session) greet() {
	offer := socks.NoAuth
	if s.User != "" {
		offer = socks.Username
	}
	s.step("greeting", "no answer to the greeting", func() (Kind, error) {
		if err := socks.WriteGreeting(s.conn, offer); err != nil {
			return Greeting, err
		}
		got, err := socks.ReadMethod(s.conn)
		switch {
		case err != nil:
			return Greeting, err
		case got == socks.NoAcceptable && offer == socks.NoAuth:
			return Method, errors.New("the server does not accept clients without a password")
		case got == socks.NoAcceptable:
			return Method, errors.New("the server does not accept user name and password")
		case got != offer:
			return Method, fmt.Errorf("the server chose method %d, which was not offered", got)
		}
		return "", nil
	})
	if offer != socks.Username {
		return
	}
	s.step("password", "no answer to the password", func() (Kind, error) {
		if err := socks.WriteCredentials(s.conn, socks.Credentials{User: s.User, Password: s.Password}); err != nil {
			return Password, err
		}
		ok, err := socks.ReadAuth(s.conn)
		if err == nil && !ok {
			err = fmt.Errorf("the server rejected the password of %q", s.User)
		}
		return Password, err
	})
}

// request asks for an address and returns the address in the reply.
func (s *session) request(to socks.Addr) (bound netip.AddrPort) {
	s.step("request", "no reply to the request", func() (Kind, error) {
		if err := socks.WriteRequest(s.conn, socks.Request{Version: s.Version, Command: s.Command, Addr: to, UserID: s.userID()}); err != nil {
			return Refused, err
		}
		var err error
		bound, err = s.reply()
		return Refused, err
	})
	return bound
}

func (s *session) userID() string {
	if s.Version == socks.V4 {
		return s.User
	}
	return ""
}

// reply reads a reply. A server that names no address of its own means the one
// that the client has connected to.
func (s *session) reply() (bound netip.AddrPort, err error) {
	reply, err := socks.ReadReply(s.conn, s.Version)
	switch {
	case errors.Is(err, io.EOF):
		return bound, errors.New("the server closed the connection without a reply")
	case err != nil:
		return bound, err
	case reply.Code != socks.Succeeded:
		return bound, errors.New(describe(reply))
	}
	ip := reply.Addr.IP.Unmap()
	if !ip.IsValid() || ip.IsUnspecified() {
		ip = s.server().Addr()
	}
	return netip.AddrPortFrom(ip, reply.Addr.Port), nil
}

// replies are the meanings of RFC 1928 section 6.
var replies = []string{"succeeded", "general failure", "not allowed by the rules", "network unreachable", "host unreachable",
	"connection refused", "time to live expired", "command not supported", "address type not supported"}

func describe(r socks.Reply) string {
	switch {
	case r.Version == socks.V4:
		return "the server rejected the request (SOCKS 4 gives no reason)"
	case int(r.Code) < len(replies):
		return fmt.Sprintf("reply %d, %s", r.Code, replies[r.Code])
	}
	return fmt.Sprintf("reply %d, which no standard defines", r.Code)
}

// proveConnect connects to the probe's listener and exchanges secrets with it, or
// connects to the target and reads what it sends.
func (s *session) proveConnect(ctx context.Context, answer *answerer) {
	if s.Target != nil {
		s.reachTarget(ctx)
		return
	}
	to := socks.AddrOf(answer.address)
	if s.Names {
		to = socks.Addr{Name: answer.address.Addr().String(), Port: to.Port}
	}
	s.request(to)
	s.step("data", "", func() (Kind, error) {
		return Nothing, s.arrival(answer, exchange(s.conn, s.ping, s.pong))
	})
}

// arrival adds to an error how far the bytes of this session came.
func (s *session) arrival(answer *answerer, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, errOther) {
		return err
	}
	how := explain(err)
	if timedOut(err) {
		how = fmt.Sprintf("%v are over", s.Timeout)
	}
	if answer.arrived(s.ping) {
		return fmt.Errorf("what the probe sent arrived at %v, but the answer did not come back: %s", answer.address, how)
	}
	return fmt.Errorf("nothing arrived at %v: %s", answer.address, how)
}

var errOther = errors.New("the bytes that came back are not those that were sent")

// exchange sends one secret, and requires the other one as the answer.
func exchange(conn io.ReadWriter, send, want secret) error {
	if _, err := conn.Write(send[:]); err != nil {
		return err
	}
	return receive(conn, want)
}

func receive(conn io.Reader, want secret) error {
	var got secret
	if _, err := io.ReadFull(conn, got[:]); err != nil {
		return err
	}
	if got != want {
		return errOther
	}
	return nil
}

// maxFirst bounds how much of what a target sends is searched for Expect, in bytes.
const maxFirst = 64 << 10

func (s *session) reachTarget(ctx context.Context) {
	to := *s.Target
	if to.Name != "" && s.Version == socks.V4 && !s.Names {
		s.step("resolve", "no address of "+to.Name, func() (Kind, error) {
			found, err := net.DefaultResolver.LookupNetIP(ctx, "ip4", to.Name)
			if err == nil {
				to = socks.Addr{IP: found[0].Unmap(), Port: to.Port}
			}
			return Unreachable, err
		})
	}
	s.request(to)
	if s.Expect == "" {
		return
	}
	s.step("data", fmt.Sprintf("the target did not send %q", s.Expect), func() (Kind, error) {
		var got []byte
		part := make([]byte, 4<<10)
		for len(got) < maxFirst {
			n, err := s.conn.Read(part)
			if got = append(got, part[:n]...); strings.Contains(string(got), s.Expect) {
				return "", nil
			}
			if err != nil {
				if errors.Is(err, io.EOF) {
					err = fmt.Errorf("the target closed after %d bytes without %q", len(got), s.Expect)
				}
				return Nothing, err
			}
		}
		return Nothing, fmt.Errorf("the first %d bytes of the target lack %q", len(got), s.Expect)
	})
}

func (s *session) close() {
	for _, c := range s.others {
		c.Close()
	}
	if s.conn != nil {
		s.conn.Close()
	}
}
