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
	target bool       // the target could not be reached: counted apart from refusals
}

// outcomes is the one table from errors to replies and reasons. The first
// entry that errors.Is finds wins.
var outcomes = []outcome{
	{errNoGreeting, silent, "no_greeting", false},
	{errHeader, silent, "proxy_header", false},
	{errForeign, silent, "proxy_header", false},
	{errSecondHeader, silent, "proxy_header", false},
	{decide.ErrBlockedName, socks.HostUnreachable, "blocked", false}, // as ErrUnresolved
	{decide.ErrBlocked, socks.NotAllowed, "blocked", false},
	{errClientClosed, silent, "client_gone", false},
	{errEvicted, silent, "crowded", false},
	{errNegotiationTimeout, silent, "negotiation_timeout", false},
	{decide.ErrMethod, socks.NotAllowed, "method", false},
	{errCredentials, silent, "auth", false}, // RFC 1929 has its own answer
	{errLoginChanged, socks.NotAllowed, "auth", false},
	{users.ErrThrottled, silent, "auth_throttle", false},
	{errSessions, socks.GeneralFailure, "sessions", false},
	{errConnecting, socks.GeneralFailure, "connecting", false},
	{errSource, socks.GeneralFailure, "source_sessions", false},
	{errBuffered, silent, "buffered", false},
	{errCommand, socks.CommandNotSupported, "command", false},
	{decide.ErrTarget, socks.AddressNotSupported, "target", false},
	{decide.ErrSelf, socks.NotAllowed, "self", false},
	{errUDPAnnounced, socks.NotAllowed, "udp_announcement", false},

	{socks.ErrVersion, silent, "protocol", false},
	{socks.ErrTooLong, socks.GeneralFailure, "protocol", false},
	{socks.ErrAddressType, socks.AddressNotSupported, "protocol", false},
	{socks.ErrName, socks.HostUnreachable, "protocol", false},

	{limiter.ErrFull, socks.NotAllowed, "limit", false},
	{limiter.ErrThrottled, socks.NotAllowed, "throttle", false},
	{limiter.ErrKeys, socks.GeneralFailure, "throttle_keys", false},
	{limiter.ErrRecovering, socks.GeneralFailure, "store_recovering", false},
	{limiter.ErrMismatch, socks.GeneralFailure, "store_mismatch", false},
	{limiter.ErrUnavailable, socks.GeneralFailure, "store_unavailable", false},
	{limiter.ErrClosed, socks.GeneralFailure, "drain", false},
	{errDrain, silent, "drain", false},
	{errEnded, silent, "ended", false},

	{udp.ErrPorts, socks.GeneralFailure, "udp_ports", false},
	{udp.ErrSocket, socks.GeneralFailure, "udp_socket", false},
	{udp.ErrEnded, silent, "done", false},

	{decide.ErrUnresolved, socks.HostUnreachable, "unresolved", true},
	{decide.ErrNoExternal, socks.AddressNotSupported, "no_external", true},
	{decide.ErrNoRoute, socks.NetworkUnreachable, "no_external", true},
	{errConnectTime, socks.TTLExpired, "connect_timeout", true},
	{errBindTime, socks.TTLExpired, "bind_timeout", true},
	{decide.ErrPeer, socks.NotAllowed, "peer", false},

	{relay.ErrClient, silent, "client_error", false},
	{relay.ErrTarget, silent, "target_error", false},
	{relay.ErrIdle, silent, "idle", false},
	{relay.ErrFinWait, silent, "idle", false},
	{errLeaseLost, silent, "lease_lost", false},
	{relay.ErrMayWrite, silent, "lease_lost", false},
	{udp.ErrClient, silent, "client_error", false},
	{udp.ErrTarget, silent, "target_error", false},
	{udp.ErrIdle, silent, "idle", false},
	{udp.ErrMayWrite, silent, "lease_lost", false},

	// Errors of dialling come last: an error above may wrap one of them.
	{errLocalPorts, socks.GeneralFailure, "local_ports", true},
	{syscall.EADDRINUSE, socks.GeneralFailure, "local_ports", true}, // bind to any port of an address
	{syscall.ECONNREFUSED, socks.ConnectionRefused, "refused", true},
	{syscall.ECONNRESET, socks.ConnectionRefused, "refused", true},
	{syscall.ECONNABORTED, socks.ConnectionRefused, "refused", true},
	{syscall.ENETUNREACH, socks.NetworkUnreachable, "net_unreachable", true},
	{syscall.ENETDOWN, socks.NetworkUnreachable, "net_unreachable", true},
	{syscall.EADDRNOTAVAIL, socks.NetworkUnreachable, "net_unreachable", true}, // no address to come from, see errLocalPorts
	{syscall.EINVAL, socks.NetworkUnreachable, "net_unreachable", true},        // a blackhole route, or link-local without an interface
	{syscall.EHOSTUNREACH, socks.HostUnreachable, "host_unreachable", true},
	{syscall.EHOSTDOWN, socks.HostUnreachable, "host_unreachable", true},
	{syscall.EPROTO, socks.HostUnreachable, "host_unreachable", true}, // this and the next two: ICMP errors about the host
	{syscall.ENOPROTOOPT, socks.HostUnreachable, "host_unreachable", true},
	{syscall.EOPNOTSUPP, socks.HostUnreachable, "host_unreachable", true},
	{syscall.EAFNOSUPPORT, socks.AddressNotSupported, "no_family", true},
	{syscall.EACCES, socks.NotAllowed, "denied_by_host", true}, // a packet filter of ours
	{syscall.EPERM, socks.NotAllowed, "denied_by_host", true},
	{syscall.EMFILE, socks.GeneralFailure, "descriptors", true},
	{syscall.ENFILE, socks.GeneralFailure, "descriptors", true},
	{syscall.ENOBUFS, socks.GeneralFailure, "memory", true}, // of the kernel
	{syscall.ENOMEM, socks.GeneralFailure, "memory", true},
	{syscall.EAGAIN, socks.GeneralFailure, "memory", true}, // connect(2): of the routing cache
	{syscall.ETIMEDOUT, socks.TTLExpired, "connect_timeout", true},
	{context.DeadlineExceeded, socks.TTLExpired, "connect_timeout", true},
	{os.ErrDeadlineExceeded, socks.TTLExpired, "connect_timeout", true},
}

// outcomeOf returns what err means. nil means that both sides have closed normally.
func outcomeOf(err error) outcome {
	if err == nil {
		return outcome{code: silent, reason: "done"}
	}
	for _, o := range outcomes {
		if errors.Is(err, o.err) {
			return o
		}
	}
	return outcome{err: err, code: socks.GeneralFailure, reason: "error"}
}

// Refusal returns the reply (RFC 1928 section 6) and the logged reason for an error
// of package decide.
func Refusal(err error) (reply int, reason string) {
	o := outcomeOf(err)
	return int(o.code), o.reason
}
