package rules

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// digestPrefix names the canonical form. It changes if, and only if, the form
// changes for rules that could be written before.
const digestPrefix = "c1"

// digestLength is that of the hexadecimal digits after the prefix.
const digestLength = 20

// Digest names the counter space of the rules. It covers, for each rule in order,
// its verdict, kind, normalised addresses and ports, command and protocol,
// proxyprotocol, methods, names of users and groups, and the limit; and the
// server's methods and session.state.key.ipv6 (if it is not the default). It does not
// cover other settings, rule.name, log, timeouts and comments. The form is a promise:
// replicas of different versions must agree on it.
func (s *Set) Digest() string { return s.digest }

func digest(s *Set) string {
	var b strings.Builder
	line(&b, "", "socksmethod", methodNames(s.Settings.Methods)...)
	s.Settings.printKey(&b)
	for _, r := range s.Client {
		r.digested(&b)
	}
	for _, r := range s.Socks {
		r.digested(&b)
	}
	sum := sha256.Sum256([]byte(b.String()))
	return digestPrefix + hex.EncodeToString(sum[:])[:digestLength]
}

// digested writes the part of a rule that the digest covers. It writes an
// interface like a host name, because another replica may not have it.
func (r *Rule) digested(b *strings.Builder) {
	r.matched(b)
	r.Session.print(b, " ", r.Client)
}

// matched writes the part of digested that does not limit anything.
func (r *Rule) matched(b *strings.Builder) {
	b.WriteString(r.header() + "\n")
	line(b, " ", "from", strings.ToLower(r.cond.from.String()))
	line(b, " ", "to", strings.ToLower(r.cond.to.String()))
	r.conditions(b, " ")
}

// conditions writes the conditions that the digest and the text share, without
// the addresses.
func (r *Rule) conditions(b *strings.Builder, indent string) {
	c := &r.cond
	if c.commands != allCommands {
		line(b, indent, "command", c.commandNames()...)
		if !r.Client && c.commands == 0 {
			line(b, indent, "command", "connect")
			line(b, indent, "protocol", "udp")
		}
	}
	if c.versions != allVersions {
		line(b, indent, "proxyprotocol", c.versionNames()...)
	}
	line(b, indent, "socksmethod", methodNames(r.Methods)...)
	line(b, indent, "user", c.users...)
	line(b, indent, "group", c.groups...)
}

func (r *Rule) header() string {
	kind, verdict := "socks", "block"
	if r.Client {
		kind = "client"
	}
	if r.Pass {
		verdict = "pass"
	}
	return kind + " " + verdict
}

// String returns the rules and settings in the one canonical spelling, in the
// dialect of Dante 1.4 (but for maxsessions: 0 and rule.name, which that has no
// words for).
// Parsed again it gives the same Set.
func (s *Set) String() string { return s.text(false) }

// Numbered returns what String does, with a comment at each rule: its ID and
// where it was read.
func (s *Set) Numbered() string { return s.text(true) }

// Text returns a rule of s in the canonical spelling, see String.
func (s *Set) Text(r *Rule) string {
	var b strings.Builder
	r.print(&b, s, false)
	return b.String()
}

func (s *Set) text(numbered bool) string {
	var b strings.Builder
	line(&b, "", "internal.protocol", familyNames(s.Settings.Internal)...)
	for _, e := range s.Settings.Internal {
		line(&b, "", "internal", fmt.Sprintf("%s port = %d", e.host(), e.Port))
	}
	line(&b, "", "external.protocol", familyNames(s.Settings.External)...)
	for _, e := range s.Settings.External {
		line(&b, "", "external", e.host())
	}
	if s.Settings.Rotation != RotationNone {
		line(&b, "", "external.rotation", choiceName(rotationChoices, int(s.Settings.Rotation)))
	}
	if !s.Settings.ConnectDst {
		line(&b, "", "udp.connectdst", "no")
	}
	line(&b, "", "socksmethod", methodNames(s.Settings.Methods)...)
	s.Settings.printKey(&b)
	line(&b, "", "logoutput", s.Settings.LogOutput...)
	line(&b, "", "errorlog", s.Settings.ErrorLog...)
	s.Settings.Timeouts.print(&b, "", defaultTimeouts)
	s.Settings.KeepAlives.print(&b, "")
	for _, r := range s.Client {
		r.print(&b, s, numbered)
	}
	for _, r := range s.Socks {
		r.print(&b, s, numbered)
	}
	return b.String()
}

// familyNames returns the families that the interfaces of a list are meant
// with, the same for all; none if that is both.
func familyNames(list []Endpoint) (names []string) {
	for _, e := range list {
		if e.Families != 0 {
			return []string{choiceName(familyChoices, int(e.Families))}
		}
	}
	return nil
}

func (e Endpoint) host() string {
	if e.Interface != "" {
		return e.Interface
	}
	return e.Addr.String()
}

func (r *Rule) print(b *strings.Builder, s *Set, numbered bool) {
	const indent = "    "
	if b.Len() > 0 {
		b.WriteString("\n")
	}
	b.WriteString(r.header() + " {")
	if numbered {
		fmt.Fprintf(b, " # %s, %s", r.ID(), r.Pos)
	}
	b.WriteString("\n")
	if r.Name != "" {
		line(b, indent, "rule.name", r.Name)
	}
	b.WriteString(indent + "from: " + r.cond.from.String() + " to: " + r.cond.to.String() + "\n")
	r.conditions(b, indent)
	r.Session.print(b, indent, r.Client)
	var logged []string
	for i, flag := range r.Log.flags() {
		if *flag {
			logged = append(logged, choiceName(logChoices, i))
		}
	}
	line(b, indent, "log", logged...)
	if ports := r.UDPPorts; ports != (PortRange{}) {
		line(b, indent, "udp.portrange", fmt.Sprintf("%d-%d", ports.Lo, ports.Hi))
	}
	r.Timeouts.print(b, indent, s.Settings.Timeouts)
	r.KeepAlives.print(b, indent)
	b.WriteString("}\n")
}

// print writes what differs from base.
func (t Timeouts) print(b *strings.Builder, indent string, base Timeouts) {
	one := func(keyword string, value, base time.Duration) {
		if value != base {
			number(b, indent, keyword, int64(value/time.Second))
		}
	}
	one("timeout.connect", t.Connect, base.Connect)
	one("timeout.negotiate", t.Negotiate, base.Negotiate)
	one("timeout.io.tcp", t.IO, base.IO)
	one("timeout.io.udp", t.IOUDP, base.IOUDP)
	one("timeout.tcp_fin_wait", t.FinWait, base.FinWait)
}

// line writes a keyword and its values, nothing if there are none.
func line(b *strings.Builder, indent, keyword string, values ...string) {
	if len(values) > 0 {
		b.WriteString(indent + keyword + ": " + strings.Join(values, " ") + "\n")
	}
}

func number(b *strings.Builder, indent, keyword string, value int64) {
	line(b, indent, keyword, strconv.FormatInt(value, 10))
}

func (e endpoint) String() string {
	if ports := e.ports.String(); ports != "" {
		return e.address.String() + " " + ports
	}
	return e.address.String()
}

func (a address) String() string {
	switch a.kind {
	case anyAddress:
		return "0/0"
	case prefixAddress:
		return a.prefix.String()
	case suffixAddress:
		return "." + a.name
	case hostAddress:
		if a.dot { // without it, another replica may take the name for an interface
			return a.name + "."
		}
	}
	return a.name
}

func (s ports) String() string {
	switch {
	case !s.restricted:
		return ""
	case s.not:
		return fmt.Sprintf("port != %d", s.lo)
	case s.lo == s.hi:
		return fmt.Sprintf("port = %d", s.lo)
	}
	return fmt.Sprintf("port %d-%d", s.lo, s.hi)
}

func (c *condition) commandNames() (names []string) {
	for _, choice := range commandChoices {
		if c.commands.has(Command(choice.value)) {
			names = append(names, choice.name)
		}
	}
	return names
}

func (c *condition) versionNames() (names []string) {
	for _, choice := range proxyProtocolChoices[:3] { // http stands for upnp too
		if c.versions&versionSet(choice.value) != 0 {
			names = append(names, choice.name)
		}
	}
	return names
}

func methodNames(methods []Method) (names []string) {
	for _, m := range methods {
		names = append(names, choiceName(methodChoices, int(m)))
	}
	return names
}

// choiceName returns the first name of a value that is honoured.
func choiceName(choices []choice, value int) string {
	for _, c := range choices {
		if c.value == value && c.refuse == "" {
			return c.name
		}
	}
	return ""
}
