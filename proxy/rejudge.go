package proxy

import (
	"context"
	"errors"
	"net/netip"
	"time"
	"unique"

	"usher/proxy/decide"
	"usher/proxy/rules"
	"usher/proxy/socks"
	"usher/proxy/users"
)

// rejudgeTime bounds how long EndNotAdmitted waits for lookups of names.
const rejudgeTime = 10 * time.Second

// EndNotAdmitted ends, with the reason "ended", the sessions that the policy in force
// would not admit, and returns their ids. A limit ends none. A target that is a name is
// judged at the address to which the session is connected. Sessions that negotiate are
// judged anew in any case, before they are admitted.
//
// It waits for the names in rules for ten seconds at most. Sessions that cannot be judged
// by then go on.
func (s *Server) EndNotAdmitted() (ended []string) {
	ctx, cancel := context.WithTimeout(context.Background(), rejudgeTime)
	defer cancel()
	current, list := s.table.inForce(), s.table.seen()
	for _, v := range list {
		if v.gen == current || v.stage.command == 0 {
			continue
		}
		err := rejudge(ctx, current, v)
		if errors.Is(err, decide.ErrBlocked) || errors.Is(err, decide.ErrMethod) || errors.Is(err, errLoginChanged) {
			v.session.sockets.cut(errEnded)
			ended = append(ended, s.sessionID(v.session.id))
		}
	}
	return ended
}

// rejudge returns the error with which the policy of g would refuse an admitted session,
// nil if it would admit it.
func rejudge(ctx context.Context, g *generation, v seen) error {
	s := v.session
	to := addrPort(s.client.LocalAddr())
	if s.via != (unique.Handle[netip.AddrPort]{}) {
		to = s.via.Value()
	}
	d := decisionBy(s, g, to)
	n := &runningNames{sessionNames: sessionNames{session: s, ctx: ctx}, seen: v}
	names := n.Init(n)
	client, err := d.Client(names)
	if err != nil {
		return err
	}
	if !g.decide.Allows(client.Rule, s.method) {
		return errOtherMethod
	}
	if s.method == rules.Username && !users.Same(v.gen.policy.Users, g.policy.Users, s.user) {
		return errLoginChanged
	}
	switch v.stage.command {
	case socks.Connect:
		_, err = d.Connect(decide.Target(s.request.Addr), names)
	case socks.Bind:
		_, err = d.BindAt(s.awaited.at, names)
		if err == nil && v.stage.connected {
			_, err = d.BindReply(s.awaited.peer, nil, names)
		}
	case socks.UDPAssociate:
		announced, unknown := s.expectedClient()
		if unknown != nil {
			return unknown
		}
		var source netip.AddrPort
		if announced.Complete() {
			source = netip.AddrPortFrom(announced.Addr, announced.Port)
		}
		_, err = d.Associate(source, s.isHidden(), names)
	}
	return err
}

// runningNames looks names up for a session that runs. The name of its target has the
// address to which it is connected, and no other.
type runningNames struct {
	sessionNames
	seen seen
}

// Addrs implements decide.Lookup.
func (n *runningNames) Addrs(name string) ([]netip.Addr, error) {
	if n.seen.stage.connected && n.seen.stage.command == socks.Connect && name == n.session.request.Addr.Name {
		return []netip.Addr{n.session.dialled.at.Addr()}, nil
	}
	return n.sessionNames.Addrs(name)
}
