package decide

import (
	"fmt"
	"net/netip"
	"slices"

	"usher/proxy/rules"
)

// Reach decides about one address that the rules passed for CONNECT or for a
// datagram. It returns the address to connect or send from, see Source. The
// error is that of Sendable or Source.
func (s *Session) Reach(command rules.Command, to netip.AddrPort) (from netip.AddrPort, err error) {
	if err := s.Sendable(command, to); err != nil {
		return from, err
	}
	return s.Source(to.Addr())
}

// Sendable returns why nothing is sent to an address although the rules pass
// it: ErrTarget for a datagram to a multicast address, from which no answer
// could come, or ErrSelf.
func (s *Session) Sendable(command rules.Command, to netip.AddrPort) error {
	switch {
	case command == rules.UDPAssociate && to.Addr().IsMulticast():
		return ErrTarget
	case s.Machine.Own(to):
		return ErrSelf
	}
	return nil
}

// Source returns the address to connect or send from towards an address, with port 0;
// the zero AddrPort if the system chooses. It is the first external: address of the
// family of to. With external.rotation: same-same, it is the address at which the
// client's connection arrived. With route, it is the address that the system would
// choose.
//
// The error is ErrNoExternal if no address of external: has the family,
// ErrNoRoute if what the rotation selects is not among them, or that of
// Machine.Toward.
func (s *Session) Source(to netip.Addr) (netip.AddrPort, error) {
	if len(s.Policy.External) == 0 {
		return netip.AddrPort{}, nil
	}
	var ours []netip.Addr
	for _, a := range s.Policy.External {
		if a = a.Unmap(); a.Is4() == to.Is4() {
			ours = append(ours, a)
		}
	}
	if len(ours) == 0 {
		return netip.AddrPort{}, fmt.Errorf("%w: %v", ErrNoExternal, to)
	}
	switch rotation := s.Policy.Rules.Settings.Rotation; {
	case rotation == rules.RotationSameSame:
		if !slices.Contains(ours, s.Local) {
			return netip.AddrPort{}, fmt.Errorf("%w for %v: the client was accepted on %v", ErrNoRoute, to, s.Local)
		}
		return netip.AddrPortFrom(s.Local, 0), nil
	case rotation == rules.RotationRoute && !to.IsUnspecified():
		from, err := s.Machine.Toward(to)
		if err == nil && !slices.Contains(ours, from) {
			err = fmt.Errorf("%w for %v: the route begins at %v", ErrNoRoute, to, from)
		}
		return netip.AddrPortFrom(from, 0), err
	}
	return netip.AddrPortFrom(ours[0], 0), nil
}

// bindAddress returns the address at which BIND awaits a peer, the first of these
// that exists:
//   - that of Source, if there is an external: address
//   - if the peer is known, the address from which the system would connect to it
//   - Local
func (s *Session) bindAddress(peer netip.Addr) (netip.Addr, error) {
	if peer == extension {
		return netip.Addr{}, ErrTarget
	}
	from, err := s.Source(peer)
	switch {
	case err != nil:
		return netip.Addr{}, err
	case from.IsValid():
		return s.zoned(from.Addr()), nil
	case peer.IsUnspecified():
		return s.zoned(s.Local), nil
	}
	local, err := s.Machine.Toward(peer)
	return s.zoned(local), err
}

// zoned returns an address with the zone of the client's connection if it is
// link-local. Otherwise the system could not tell its interface. Neither SOCKS nor the
// rules know zones.
func (s *Session) zoned(a netip.Addr) netip.Addr {
	if a.Is6() && a.IsLinkLocalUnicast() {
		return a.WithZone(s.Zone)
	}
	return a
}
