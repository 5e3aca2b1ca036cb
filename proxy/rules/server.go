package rules

import (
	"net/netip"
	"slices"
	"strings"
)

// defaultPort is that of socks in the service names (RFC 1928 section 3).
const defaultPort = 1080

func (p *parser) readInternal(k token) {
	e, ok := p.serverAddress(k)
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
	if e, ok := p.serverAddress(k); ok {
		p.set.Settings.External = append(p.set.Settings.External, e)
	}
}

// serverAddress reads an address without a mask, or an interface.
func (p *parser) serverAddress(k token) (e Endpoint, ok bool) {
	t := p.take()
	e.Pos = t.pos
	if addr, err := netip.ParseAddr(t.text); err == nil {
		if addr.Is4In6() {
			p.fail(t.pos, "%s: %s is an IPv4 address in IPv6 form; write it as an IPv4 address", k.text, t.text)
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
		p.warn(t.pos, "%s: %s is not an interface here; write an IP address or an interface that exists", k.text, quote(t))
	}
	e.Interface = t.text
	return e, true
}

func (p *parser) isInterface(name string) bool {
	_, ok := p.interfaceAddrs(name)
	return ok
}

// Interfaces returns the names of the network interfaces that the rules and
// the settings refer to, sorted. Their addresses are those that Env gave when
// the file was read; a caller that sees them change reads the file again.
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
