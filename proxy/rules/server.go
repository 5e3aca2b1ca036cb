package rules

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
)

// defaultPort is the port of the service socks (RFC 1928 section 3).
const defaultPort = 1080

func (p *parser) readInternal(k token) {
	e, ok := p.serverAddress(k, p.internal)
	e.Port = defaultPort
	if at := p.peek(); at.kind == tokenWord && at.text == "port" {
		before := len(p.diags)
		given := p.ports()
		if len(p.diags) == before && (!given.restricted || given.not || given.lo != given.hi) {
			p.fail(at.pos, "internal: takes one port; write port = and the number")
		}
		e.Port = given.lo
	}
	if ok {
		p.set.Settings.Internal = append(p.set.Settings.Internal, e)
	}
}

func (p *parser) readExternal(k token) {
	e, ok := p.serverAddress(k, p.external)
	switch {
	case ok && e.Addr.IsUnspecified():
		p.fail(e.Pos, "external: Usher cannot connect from %s; write one address, or remove the line to let the system choose", e.Addr)
	case ok:
		p.set.Settings.External = append(p.set.Settings.External, e)
	}
}

func (p *parser) readInternalProtocol(k token) {
	p.internal = p.families(k, len(p.set.Settings.Internal))
}

func (p *parser) readExternalProtocol(k token) {
	p.external = p.families(k, len(p.set.Settings.External))
}

// families reads internal.protocol or external.protocol. They apply to the addresses
// below them. before is the number of addresses above.
func (p *parser) families(k token, before int) (f Families) {
	if before > 0 {
		side, _, _ := strings.Cut(k.text, ".")
		p.fail(k.pos, "%s: comes after %s:, but selects among its addresses; move it above", k.text, side)
	}
	for _, v := range p.list(k, familyChoices) {
		f |= Families(v.value)
	}
	return f
}

func (p *parser) readRotation(k token) {
	value, _ := p.one(k, rotationChoices)
	p.set.Settings.Rotation = Rotation(value)
}

func (p *parser) readConnectDst(k token) {
	yes, ok := p.one(k, yesNoChoices)
	p.set.Settings.ConnectDst = !ok || yes == 1
}

// serverAddress reads an address without a mask, of one of the families, or an interface.
func (p *parser) serverAddress(k token, families Families) (e Endpoint, ok bool) {
	t := p.take()
	e.Pos = t.pos
	if addr, err := netip.ParseAddr(t.text); err == nil {
		if addr.Is4In6() {
			p.fail(t.pos, "%s: %s is an IPv4 address in IPv6 form; write it as an IPv4 address", k.text, t.text)
			return e, false
		}
		if !families.Has(addr) {
			p.fail(t.pos, "%s: %s is not of a family in %s.protocol:; remove one of the two lines", k.text, t.text, k.text)
			return e, false
		}
		e.Addr = addr
		return e, true
	}
	if strings.Contains(t.text, "/") || strings.Trim(t.text, "0123456789.:") == "" {
		p.fail(t.pos, "%s: %s is neither an IP address nor an interface; write one address, without a mask", k.text, quote(t))
		return e, false
	}
	if p.env.Interface != nil && !p.isInterface(t.text) {
		p.warn(t.pos, "%s: %s is not an interface of this machine; write an IP address or an interface that exists", k.text, quote(t))
	}
	e.Interface = t.text
	if families != IPv4|IPv6 {
		e.Families = families
	}
	return e, true
}

// leavingFamilies returns the families of the addresses that connections and
// datagrams leave from; both if the system chooses, or if it is not known here.
func (p *parser) leavingFamilies() (f Families) {
	for _, e := range p.set.Settings.External {
		addrs := []netip.Addr{e.Addr}
		if e.Interface != "" {
			addrs, _ = p.interfaceAddrs(e.Interface)
		}
		for _, a := range addrs {
			switch {
			case a.IsLinkLocalUnicast() && e.Interface != "" || !e.Families.Has(a): // not used
			case a.Is4():
				f |= IPv4
			default:
				f |= IPv6
			}
		}
		if len(addrs) == 0 {
			f |= cmp.Or(e.Families, IPv4|IPv6)
		}
	}
	if f == 0 {
		return IPv4 | IPv6
	}
	return f
}

func (p *parser) isInterface(name string) bool {
	_, ok := p.interfaceAddrs(name)
	return ok
}

// Interfaces returns the names of the network interfaces that the rules and the
// settings refer to, sorted. Their addresses are those that Env returned when the file
// was read. If they change, the caller has to read the file again.
func (s *Set) Interfaces() []string {
	var names []string
	for _, e := range slices.Concat(s.Settings.Internal, s.Settings.External) {
		if e.Interface != "" {
			names = append(names, e.Interface)
		}
	}
	for _, r := range slices.Concat(s.Client, s.Socks) {
		for _, a := range []address{r.cond.from.address, r.cond.to.address} {
			if a.kind == interfaceAddress {
				names = append(names, a.name)
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}
