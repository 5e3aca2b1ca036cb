package rules

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

type addressKind uint8

const (
	anyAddress addressKind = iota + 1 // 0/0: every address and every name
	prefixAddress
	hostAddress      // a host name
	suffixAddress    // .domain: the domain and everything below
	interfaceAddress // a network interface: its own addresses
	builtinAddress   // @special: networks that Usher knows
)

// address is what from: and to: name, without the port.
type address struct {
	kind   addressKind
	prefix netip.Prefix
	name   string       // host and suffix: lower case, without a final dot or the leading one; built-in: with its mark
	dot    bool         // host: written with a final dot, so never an interface
	addrs  []netip.Addr // of an interface, when the file was read

	networks []netip.Prefix // of a built-in
}

// ports is a set of ports; the zero value holds all of them.
type ports struct {
	restricted bool
	lo, hi     uint16 // inclusive
	not        bool   // all but lo to hi
}

// endpoint is an address with ports.
type endpoint struct {
	address
	ports
}

func (p *parser) readFrom(token) {
	at := p.peek().pos
	p.rule.cond.from = p.endpoint()
	p.checkSource(at)
}

func (p *parser) readTo(token) { p.rule.cond.to = p.endpoint() }

func (p *parser) endpoint() endpoint {
	t := p.take()
	word := p.joined(t, '/')
	a, message := p.address(word)
	if message != "" {
		p.fail(t.pos, "%s", message)
		a = address{}
	}
	switch {
	case a.kind == prefixAddress:
		p.checkBits(t.pos, word, a.prefix)
	case a.kind == interfaceAddress && len(a.addrs) == 0:
		p.warn(t.pos, "%s is an interface without addresses and matches nothing; "+
			"give it an address and reload, or write the addresses that you mean", quote(t))
	case a.kind == hostAddress && a.name == "lo0": // loopback of BSD, in Dante's own sample
		p.warn(t.pos, "%s is not an interface of this machine, so it is taken for a host name; "+
			"write 127.0.0.0/8, and ::1/128 in another rule", quote(t))
	case a.kind == hostAddress && !strings.Contains(word, ".") && a.name != "localhost":
		p.warn(t.pos, "%s is not an interface of this machine, so it is taken for a host name; "+
			"check the spelling, write a dot at its end if it is a host name, or write the addresses that you mean", quote(t))
	}
	return endpoint{a, p.ports()}
}

// checkBits warns of a network written with bits below its mask: often one
// address was meant, and the mask decides. Dante ignores them without a word.
func (p *parser) checkBits(at Pos, word string, network netip.Prefix) {
	host, _, _ := strings.Cut(word, "/")
	ip, err := netip.ParseAddr(host)
	if err != nil || ip == network.Addr() {
		return
	}
	severity, all := Warning, "the whole network "+network.String()
	if network.Bits() == 0 {
		all = "every address of its family"
		if p.rule.Pass {
			severity = Danger
		}
	}
	p.report(severity, at, fmt.Sprintf("%s is %s; write %s if you mean that, or %s/%d for the one address",
		word, all, network, ip, ip.BitLen()))
}

// address returns the address that a word means, or what is wrong with it and the remedy.
func (p *parser) address(word string) (a address, message string) {
	if strings.HasPrefix(word, builtinMark) {
		return builtin(word)
	}
	if host, mask, found := strings.Cut(word, "/"); found {
		return maskedAddress(word, host, mask)
	}
	if ip, err := netip.ParseAddr(word); err == nil {
		return a, word + " has no mask; write " + word + "/" + strconv.Itoa(ip.BitLen())
	}
	if addrs, ok := p.interfaceAddrs(word); ok {
		return address{kind: interfaceAddress, name: word, addrs: addrs}, ""
	}
	name := strings.ToLower(strings.TrimSuffix(word, "."))
	if _, ok := p.interfaceAddrs(name); ok {
		// It is too easily misread.
		return a, word + " is spelled like the interface " + name + ", but means a name; " +
			"write " + name + " for the interface, or the addresses that are meant"
	}
	if rest, found := strings.CutPrefix(name, "."); found {
		return address{kind: suffixAddress, name: rest}, badName(word, rest)
	}
	return address{kind: hostAddress, name: name, dot: strings.HasSuffix(word, ".")}, badName(word, name)
}

func maskedAddress(word, host, mask string) (a address, message string) {
	if host == "0" {
		if mask != "0" {
			return a, word + " is not an address; write four numbers and a mask, as in 10.0.0.0/8"
		}
		return address{kind: anyAddress}, ""
	}
	ip, err := netip.ParseAddr(host)
	switch {
	case err != nil && strings.Trim(host, "0123456789.:") == "":
		return a, word + " is not an IP address with a mask; write it in full, as in 10.0.0.0/8"
	case err != nil:
		return a, "only IP addresses have a mask; remove the / and what follows from " + word
	case ip.Is4In6():
		return a, word + " is an IPv4 address in IPv6 form; write it as an IPv4 address"
	case ip.Zone() != "":
		return a, word + " has a zone; remove the % and what follows"
	}
	bits, ok := maskBits(ip, mask)
	if !ok {
		return a, word + " has no valid mask; write a number up to " + strconv.Itoa(ip.BitLen()) + " after the /"
	}
	return address{kind: prefixAddress, prefix: netip.PrefixFrom(ip, bits).Masked()}, ""
}

// maskBits reads /8 or, for IPv4, /255.0.0.0.
func maskBits(ip netip.Addr, mask string) (bits int, ok bool) {
	if dotted, err := netip.ParseAddr(mask); err == nil && dotted.Is4() && ip.Is4() {
		b := dotted.As4()
		m := uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
		for bits = 0; bits < 32 && m&(1<<(31-bits)) != 0; bits++ {
		}
		return bits, uint64(m) == uint64(1)<<32-uint64(1)<<(32-bits)
	}
	if mask == "" || len(mask) > 3 || strings.Trim(mask, "0123456789") != "" || len(mask) > 1 && mask[0] == '0' {
		return 0, false
	}
	bits, err := strconv.Atoi(mask)
	return bits, err == nil && bits <= ip.BitLen()
}

func (p *parser) interfaceAddrs(name string) ([]netip.Addr, bool) {
	if p.env.Interface == nil {
		return nil, false
	}
	found, ok := p.env.Interface(name)
	if !ok {
		return nil, false
	}
	addrs := make([]netip.Addr, 0, len(found))
	for _, a := range found {
		addrs = append(addrs, plain(a))
	}
	return addrs, true
}

// plain returns an address as rules compare it: IPv4 as IPv4, and without a zone.
func plain(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }

// badName says what is wrong with a host name, "" if nothing is.
func badName(word, name string) (message string) {
	if len(name) > 253 {
		return "the name has more than 253 characters; shorten it"
	}
	labels := strings.Split(name, ".")
	for _, label := range labels {
		if label == "" || len(label) > 63 || strings.Trim(label, nameCharacters) != "" || label[0] == '-' {
			return strconv.Quote(word) + " is neither an address, a host name, a .domain nor an interface; " +
				"write one of these"
		}
	}
	if strings.Trim(labels[len(labels)-1], "0123456789") == "" {
		return strconv.Quote(word) + " is not a valid IP address; write four numbers up to 255 and a mask"
	}
	return ""
}

const nameCharacters = "abcdefghijklmnopqrstuvwxyz0123456789-_"

// operators of Dante 1.4, its manual and the older dialect.
var operators = map[string]string{
	"=": "=", "eq": "=", "!=": "!=", "ne": "!=", "neq": "!=",
	"<": "<", "lt": "<", "<=": "<=", "le": "<=", ">": ">", "gt": ">", ">=": ">=", "ge": ">=",
}

// ports reads what may follow an address: port = http, port http, port 1-65535, port >= 1024.
func (p *parser) ports() ports {
	if t := p.peek(); t.kind == tokenKeyword && t.text == "port" {
		p.fail(t.pos, "port takes no colon; write port = and the number")
		p.take()
		p.skipValues()
		return ports{}
	}
	if t := p.peek(); t.kind != tokenWord || t.text != "port" {
		return ports{}
	}
	word := p.take()
	op := "="
	given, isOp := operators[p.peek().text]
	if isOp {
		op = given
		p.take()
	}
	if p.peek().kind != tokenWord {
		p.fail(word.pos, "port has no value; write a number, a service name or a range")
		return ports{}
	}
	value := p.take()
	if value.text[0] >= '0' && value.text[0] <= '9' {
		if lo, hi, isRange := strings.Cut(p.joined(value, '-'), "-"); isRange {
			if isOp {
				p.rangeCompared(value, given)
			}
			return p.portsBetween(value, lo, hi)
		}
	}
	n, ok := p.port(value, value.text)
	if !ok {
		return ports{}
	}
	return p.compared(value, op, n)
}

// rangeCompared reports an operator before a range. Without the operator, the rule
// would match other ports than those that were meant, except after =.
func (p *parser) rangeCompared(at token, given string) {
	switch operators[given] {
	case "=":
		p.fail(at.pos, "a range of ports takes no operator; remove the %s", given)
	case "!=":
		p.fail(at.pos, "%s takes one port; write a rule for the ports below the range and one for those above it", given)
	default:
		p.fail(at.pos, "%s takes one port; write the number alone", given)
	}
}

// joined returns A-B for A-B, A - B, A- B and A -B, with sep for the hyphen; A
// alone if no sep follows. first, the word up to the first blank, was taken.
func (p *parser) joined(first token, sep byte) string {
	text := first.text
	if t := p.peek(); t.kind == tokenWord && t.text[0] == sep {
		text += p.take().text
	}
	if t := p.peek(); text[len(text)-1] == sep && t.kind == tokenWord {
		text += p.take().text
	}
	return text
}

// readPortRange reads udp.portrange: A-B.
func (p *parser) readPortRange(k token) {
	t := p.take()
	text := p.joined(t, '-')
	lo, hi, isRange := strings.Cut(text, "-")
	if !isRange {
		p.fail(t.pos, "%s: %s is not a range of ports; write two numbers, as in 40000-44999", k.text, quote(t))
		return
	}
	before := len(p.diags)
	given := p.portsBetween(t, lo, hi)
	if len(p.diags) == before && given.lo == 0 {
		p.fail(t.pos, "%s: port 0 is not allowed; begin the range with 1 or more", k.text)
	}
	p.rule.UDPPorts = PortRange{Lo: given.lo, Hi: given.hi}
}

func (p *parser) portsBetween(t token, lo, hi string) ports {
	a, okLo := parseNumber(lo)
	b, okHi := parseNumber(hi)
	switch {
	case !okLo || !okHi || a > 65535 || b > 65535:
		p.fail(t.pos, "%s-%s is not a range of ports; write two numbers up to 65535, as in 1024-2047", lo, hi)
	case a > b:
		p.fail(t.pos, "the range of ports begins with %d and ends with %d; swap the two", a, b)
	default:
		return between(uint16(a), uint16(b))
	}
	return ports{}
}

// between holds the ports from lo to hi.
func between(lo, hi uint16) ports {
	if lo == 0 && hi == 65535 {
		return ports{}
	}
	return ports{restricted: true, lo: lo, hi: hi}
}

// port reads a number or a service name.
func (p *parser) port(t token, text string) (uint16, bool) {
	if n, isNumber := parseNumber(text); isNumber {
		if n > 65535 {
			p.fail(t.pos, "%s is not a port; write a number from 0 to 65535", text)
			return 0, false
		}
		return uint16(n), true
	}
	if n, known := services[text]; known {
		return n, true
	}
	if near := nearest(text, serviceNames()); near != "" {
		p.fail(t.pos, "unknown service %q; did you mean %s?", text, near)
	} else {
		p.fail(t.pos, "unknown service %q; write the port as a number", text)
	}
	return 0, false
}

func (p *parser) compared(t token, op string, n uint16) ports {
	switch {
	case op == "=":
		return between(n, n)
	case op == "!=":
		return ports{restricted: true, lo: n, hi: n, not: true}
	case op == "<" && n > 0:
		return between(0, n-1)
	case op == "<=":
		return between(0, n)
	case op == ">" && n < 65535:
		return between(n+1, 65535)
	case op == ">=":
		return between(n, 65535)
	}
	p.fail(t.pos, "no port is %s %d; correct the comparison", op, n)
	return ports{}
}
