// Package explain tells what usher serve would decide about a request, which rules
// do not match and why, and which limits apply. It asks package decide, as a session
// does, and resolves names the same way.
package explain

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"usher/proxy/decide"
	"usher/proxy/rules"
	"usher/proxy/socks"
)

// Ephemeral stands for a port that the system chooses: the first one of the usual
// range.
const Ephemeral = 49152

// Question is a request to be explained.
type Question struct {
	From    netip.AddrPort // the client; for replies the peer
	Local   netip.AddrPort // the address that the client connects to; 0.0.0.0 or :: if only its family is known
	User    string         // "": the client does not log in
	To      rules.Target   // for replies the client, which has an address
	Command rules.Command
	Version rules.Version
}

// Parse reads FROM [USER] TO:PORT [COMMAND]. Local is left empty.
func Parse(args []string, version rules.Version) (q Question, err error) {
	q.Version = version
	if len(args) > 2 {
		if c, known := rules.CommandNamed(args[len(args)-1]); known {
			q.Command, args = c, args[:len(args)-1]
		}
	}
	if len(args) == 3 {
		q.User, args = args[1], slices.Delete(slices.Clone(args), 1, 2)
	}
	if len(args) != 2 {
		return q, errors.New("write FROM [USER] TO:PORT [COMMAND], as in: usher explain 192.0.2.7 monica example.com:443 connect")
	}
	if q.From, err = parseFrom(args[0]); err != nil {
		return q, err
	}
	if q.To, err = parseTo(args[1]); err != nil {
		return q, err
	}
	return q, q.check()
}

func parseFrom(text string) (netip.AddrPort, error) {
	if from, err := netip.ParseAddrPort(text); err == nil {
		return from, nil
	}
	addr, err := netip.ParseAddr(strings.Trim(text, "[]"))
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("FROM %q is not an address; write it like 192.0.2.7 or 192.0.2.7:50000", text)
	}
	return netip.AddrPortFrom(addr, Ephemeral), nil
}

func parseTo(text string) (rules.Target, error) {
	host, port, err := net.SplitHostPort(text)
	n, perr := strconv.ParseUint(port, 10, 16)
	if err != nil || perr != nil || host == "" {
		return rules.Target{}, fmt.Errorf("%q is not a target; write a name or an address and a port, like example.com:443 or [2001:db8::1]:443", text)
	}
	return decide.Target(socks.Addr{Name: host, Port: uint16(n)}), nil
}

// check returns an error for a request that no client can make.
func (q Question) check() error {
	udp := q.Command == rules.UDPAssociate || q.Command == rules.UDPReply
	switch {
	case q.Version == rules.SOCKS4 && q.User != "":
		return errors.New("SOCKS 4 has no passwords; remove USER or --socks 4")
	case q.Version == rules.SOCKS4 && udp:
		return errors.New("UDP needs SOCKS 5; remove --socks 4")
	case q.isReply() && q.To.Name != "":
		return fmt.Errorf("TO is the client of a %s and has an address; write it instead of %q", q.Command, q.To.Name)
	}
	return nil
}

// isReply reports whether From is a peer and To the client.
func (q Question) isReply() bool { return q.Command == rules.BindReply || q.Command == rules.UDPReply }

// method is the only method that the client offers.
func (q Question) method() rules.Method {
	if q.User != "" {
		return rules.Username
	}
	return rules.None
}

// Local returns the address that a client at from connects to if serve listens at these
// addresses, which must not be empty: the first one of its family, or one that is for
// both families (:1080, a name). If there is none, it is the first address, because a
// balancer may pass on a client of the other family.
func Local(listeners []string, from netip.Addr) string {
	i := slices.IndexFunc(listeners, func(where string) bool {
		at, err := netip.ParseAddrPort(where)
		return err != nil || at.Addr().Unmap().Is4() == from.Unmap().Is4()
	})
	where := listeners[max(i, 0)]
	if port, found := strings.CutPrefix(where, ":"); found {
		every := netip.IPv6Unspecified()
		if from.Unmap().Is4() {
			every = netip.IPv4Unspecified()
		}
		return net.JoinHostPort(every.String(), port)
	}
	return where
}
