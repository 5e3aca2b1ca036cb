package proxy

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"

	"usher/limiter"
	"usher/proxy/decide"
	"usher/proxy/relay"
	"usher/proxy/socks"
	"usher/proxy/udp"
	"usher/proxy/users"
)

// Why a session ends, where no other package has an error for it.
var (
	errNoGreeting         = errors.New("the client closed the connection without sending a byte")
	errHeader             = errors.New("no valid PROXY header from a trusted address")
	errForeign            = errors.New("a PROXY header from an address that is not trusted")
	errSecondHeader       = errors.New("a second PROXY header")
	errClientClosed       = errors.New("the client closed the connection")
	errSessions           = errors.New("too many sessions (USHER_MAX_SESSIONS)")
	errConnecting         = errors.New("too many sessions of this client address are not connected yet (USHER_MAX_SESSIONS)")
	errSource             = errors.New("too many sessions of this client address while few are free (USHER_MAX_SESSIONS)")
	errBuffered           = errors.New("the kernel buffered too much for this session, and memory is short")
	errEvicted            = errors.New("too many clients were negotiating")
	errNegotiationTimeout = errors.New("negotiation timeout (timeout.negotiate)")
	errCredentials        = errors.New("wrong user name or password")
	errOtherMethod        = fmt.Errorf("%w: newer rules came into force while the client negotiated", decide.ErrMethod)
	errLoginChanged       = errors.New("the password was changed, or the user removed, while the client negotiated")
	errCommand            = errors.New("command not supported")
	errConnectTime        = errors.New("connect timeout (timeout.connect)")
	errLocalPorts         = errors.New("no local port is free towards the target")
	errBindTime           = errors.New("no peer connected within the bind timeout")
	errUDPAnnounced       = errors.New("a balancer hides the client, and the client announced no complete address for its datagrams")

	// errOutdated makes a session ask newer rules. No session ends with it.
	errOutdated = errors.New("newer rules are in force")

	errLeaseLost = errors.New("the session has lost its slot, because the lease ended")
	errDrain     = errors.New("the server is stopping")
	errEnded     = errors.New("an operator has ended the session")
)

// silent is the code of errors that get no reply: the client closed, made no
// request, or was cut by the server. A cut closes the client's connection, so a
// reply would arrive only by chance. So every error that ends a session's context
// is silent.
const silent = socks.Succeeded

// outcome says what an error means for the client, the log and the metrics.
type outcome struct {
	err    error
	code   socks.Code // the reply, if the client has sent a request
	reason string     // in the log line and the labels of metrics
	cause  cause
}

// cause says what ended a session that was not connected. It decides in which metric the
// session is counted, and whether for a rule, see Metrics.finish.
type cause int

const (
	byOthers      cause = iota // the client, the balancer, an operator, or what this replica lacks
	byRule                     // a rule, its limit, or the store that did not admit
	byTarget                   // the target could not be reached
	whileRelaying              // only sessions that are connected end like this
)

// outcomes is the one table from errors to replies and reasons. The first
// entry that errors.Is finds wins.
var outcomes = []outcome{
	{errNoGreeting, silent, "no_greeting", byOthers},
	{errHeader, silent, "proxy_header", byOthers},
	{errForeign, silent, "proxy_header", byOthers},
	{errSecondHeader, silent, "proxy_header", byOthers},
	{decide.ErrBlockedName, socks.HostUnreachable, "blocked", byRule}, // as ErrUnresolved
	{decide.ErrBlocked, socks.NotAllowed, "blocked", byRule},
	{errClientClosed, silent, "client_gone", byOthers},
	{errEvicted, silent, "crowded", byOthers},
	{errNegotiationTimeout, silent, "negotiation_timeout", byOthers},
	{decide.ErrMethod, socks.NotAllowed, "method", byOthers},
	{errCredentials, silent, "auth", byOthers}, // RFC 1929 has its own answer
	{errLoginChanged, socks.NotAllowed, "auth", byOthers},
	{users.ErrThrottled, silent, "auth_throttle", byOthers},
	{errSessions, socks.GeneralFailure, "sessions", byOthers},
	{errConnecting, socks.GeneralFailure, "connecting", byOthers},
	{errSource, socks.GeneralFailure, "source_sessions", byOthers},
	{errBuffered, silent, "buffered", byOthers},
	{errCommand, socks.CommandNotSupported, "command", byOthers},
	{decide.ErrTarget, socks.AddressNotSupported, "target", byOthers},
	{decide.ErrSelf, socks.NotAllowed, "self", byOthers},
	{errUDPAnnounced, socks.NotAllowed, "udp_announcement", byOthers},

	{socks.ErrVersion, silent, "protocol", byOthers},
	{socks.ErrTooLong, socks.GeneralFailure, "protocol", byOthers},
	{socks.ErrAddressType, socks.AddressNotSupported, "protocol", byOthers},
	{socks.ErrName, socks.HostUnreachable, "protocol", byOthers},

	{limiter.ErrFull, socks.NotAllowed, "limit", byRule},
	{limiter.ErrThrottled, socks.NotAllowed, "throttle", byRule},
	{limiter.ErrKeys, socks.GeneralFailure, "throttle_keys", byRule},
	{limiter.ErrRecovering, socks.GeneralFailure, "store_recovering", byRule},
	{limiter.ErrMismatch, socks.GeneralFailure, "store_mismatch", byRule},
	{limiter.ErrUnavailable, socks.GeneralFailure, "store_unavailable", byRule},
	{limiter.ErrClosed, socks.GeneralFailure, "drain", byOthers},
	{errDrain, silent, "drain", byOthers},
	{errEnded, silent, "ended", byOthers},

	{udp.ErrPorts, socks.GeneralFailure, "udp_ports", byOthers},
	{udp.ErrSocket, socks.GeneralFailure, "udp_socket", byOthers},
	{udp.ErrEnded, silent, "done", whileRelaying},

	{decide.ErrUnresolved, socks.HostUnreachable, "unresolved", byTarget},
	{decide.ErrNoExternal, socks.AddressNotSupported, "no_external", byTarget},
	{decide.ErrNoRoute, socks.NetworkUnreachable, "no_external", byTarget},
	{errConnectTime, socks.TTLExpired, "connect_timeout", byTarget},
	{errBindTime, socks.TTLExpired, "bind_timeout", byTarget},
	{decide.ErrPeer, socks.NotAllowed, "peer", byOthers},

	{relay.ErrClient, silent, "client_error", whileRelaying},
	{relay.ErrTarget, silent, "target_error", whileRelaying},
	{relay.ErrIdle, silent, "idle", whileRelaying},
	{relay.ErrFinWait, silent, "idle", whileRelaying},
	{errLeaseLost, silent, "lease_lost", byOthers},
	{relay.ErrMayWrite, silent, "lease_lost", byOthers},
	{udp.ErrClient, silent, "client_error", whileRelaying},
	{udp.ErrTarget, silent, "target_error", whileRelaying},
	{udp.ErrIdle, silent, "idle", whileRelaying},
	{udp.ErrMayWrite, silent, "lease_lost", byOthers},

	// Errors of dialling come last: an error above may wrap one of them.
	{errLocalPorts, socks.GeneralFailure, "local_ports", byOthers},
	{syscall.EADDRINUSE, socks.GeneralFailure, "local_ports", byOthers}, // bind to any port of an address
	{syscall.ECONNREFUSED, socks.ConnectionRefused, "refused", byTarget},
	{syscall.ECONNRESET, socks.ConnectionRefused, "refused", byTarget},
	{syscall.ECONNABORTED, socks.ConnectionRefused, "refused", byTarget},
	{syscall.ENETUNREACH, socks.NetworkUnreachable, "net_unreachable", byTarget},
	{syscall.ENETDOWN, socks.NetworkUnreachable, "net_unreachable", byTarget},
	{syscall.EADDRNOTAVAIL, socks.NetworkUnreachable, "net_unreachable", byTarget}, // no address to come from, see errLocalPorts
	{syscall.EINVAL, socks.NetworkUnreachable, "net_unreachable", byTarget},        // a blackhole route, or link-local without an interface
	{syscall.EHOSTUNREACH, socks.HostUnreachable, "host_unreachable", byTarget},
	{syscall.EHOSTDOWN, socks.HostUnreachable, "host_unreachable", byTarget},
	{syscall.EPROTO, socks.HostUnreachable, "host_unreachable", byTarget}, // this and the next two: ICMP errors about the host
	{syscall.ENOPROTOOPT, socks.HostUnreachable, "host_unreachable", byTarget},
	{syscall.EOPNOTSUPP, socks.HostUnreachable, "host_unreachable", byTarget},
	{syscall.EAFNOSUPPORT, socks.AddressNotSupported, "no_family", byTarget},
	{syscall.EACCES, socks.NotAllowed, "denied_by_host", byTarget}, // a packet filter of ours
	{syscall.EPERM, socks.NotAllowed, "denied_by_host", byTarget},
	{syscall.EMFILE, socks.GeneralFailure, "descriptors", byOthers},
	{syscall.ENFILE, socks.GeneralFailure, "descriptors", byOthers},
	{syscall.ENOBUFS, socks.GeneralFailure, "memory", byOthers}, // of the kernel
	{syscall.ENOMEM, socks.GeneralFailure, "memory", byOthers},
	{syscall.EAGAIN, socks.GeneralFailure, "memory", byOthers}, // connect(2): of the routing cache
	{syscall.ETIMEDOUT, socks.TTLExpired, "connect_timeout", byTarget},
	{context.DeadlineExceeded, socks.TTLExpired, "connect_timeout", byTarget},
	{os.ErrDeadlineExceeded, socks.TTLExpired, "connect_timeout", byTarget},
}

// otherError is the reason of errors that outcomes does not have.
const otherError = "error"

// outcomeOf returns what err means. nil means that both sides have closed normally.
func outcomeOf(err error) outcome {
	if err == nil {
		return outcome{code: silent, reason: "done", cause: whileRelaying}
	}
	for _, o := range outcomes {
		if errors.Is(err, o.err) {
			return o
		}
	}
	return outcome{err: err, code: socks.GeneralFailure, reason: otherError}
}

// Refusal returns the reply (RFC 1928 section 6) and the logged reason for an error
// of package decide.
func Refusal(err error) (reply int, reason string) {
	o := outcomeOf(err)
	return int(o.code), o.reason
}
