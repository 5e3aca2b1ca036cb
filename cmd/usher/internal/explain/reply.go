package explain

import (
	"errors"
	"fmt"
	"net/netip"

	"usher/proxy/decide"
	"usher/proxy/rules"
)

// Reply is what serve would do with what comes back: a datagram of the target, or the
// connection of the peer of BIND.
type Reply struct {
	Command string `json:"command"` // bindreply or udpreply
	From    string `json:"from"`    // the peer
	Rules   []Step `json:"rules"`
	Pass    bool   `json:"pass"`
	Reason  string `json:"reason"`
}

// reply asks decision about a reply of peer, and records the answer.
func (w *walk) reply(command rules.Command, peer netip.AddrPort, decision func() (*rules.Rule, error)) {
	reply := &Reply{Command: command.String(), From: peer.String()}
	w.trace(&reply.Rules, netip.Addr{})
	r, err := decision()
	switch {
	case err == nil:
		reply.Pass, reply.Reason = true, r.String()+" passes it"
	case !errors.Is(err, decide.ErrBlocked):
		reply.Reason = err.Error()
	case r != nil:
		reply.Reason = r.String() + " blocks it"
	default:
		reply.Reason = "no socks-rule matches"
	}
	w.answer.Reply = reply
}

// datagramReply asks whether the answer of the target gets back to the client.
func (w *walk) datagramReply() {
	if len(w.answer.Addresses) == 0 {
		return
	}
	peer := netip.AddrPortFrom(netip.MustParseAddr(w.answer.Addresses[0]), w.question.To.Port)
	w.reply(rules.UDPReply, peer, func() (*rules.Rule, error) { return w.session.UDPReply(peer, w.question.From, &w.Names) })
}

// peerReply asks whether the peer that the client announced may connect. If it may be
// anybody, there is nobody to ask about.
func (w *walk) peerReply(expected []netip.Addr) {
	if len(expected) == 0 || expected[0].IsUnspecified() {
		return
	}
	peer := netip.AddrPortFrom(expected[0], Ephemeral)
	w.reply(rules.BindReply, peer, func() (*rules.Rule, error) { return w.session.BindReply(peer, expected, &w.Names) })
}

// String is the line for people.
func (r *Reply) String() string {
	outcome := ""
	switch {
	case r.Pass:
	case r.Command == rules.BindReply.String():
		outcome = ", so Usher would refuse the peer"
	default:
		outcome = ", so Usher would drop the answers"
	}
	return fmt.Sprintf("%s from %s: %s%s", r.Command, r.From, r.Reason, outcome)
}
