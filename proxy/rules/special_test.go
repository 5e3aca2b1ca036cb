package rules

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// @special means its networks, in each part of a rule and for each kind of question.
func TestSpecial(t *testing.T) {
	var networks strings.Builder
	for _, n := range specialNetworks {
		if n != n.Masked() {
			t.Errorf("%v has bits below its mask", n)
		}
		networks.WriteString("socks block { from: 0/0 to: " + n.String() + " command: connect }\n")
	}
	const pass = "socks pass { from: 0/0 to: 0/0 command: connect }\n"
	one, each := parse(t, "socks block { from: 0/0 to: @special command: connect }\n"+pass), parse(t, networks.String()+pass)
	for _, n := range append(specialNetworks, netip.MustParsePrefix("1.1.1.1/32"), netip.MustParsePrefix("2a00::/16")) {
		last := n.Addr().AsSlice()
		for i := n.Bits(); i < 8*len(last); i++ {
			last[i/8] |= 1 << (7 - i%8)
		}
		end, _ := netip.AddrFromSlice(last)
		for _, a := range []netip.Addr{n.Addr(), n.Addr().Prev(), end, end.Next()} {
			if !a.IsValid() {
				continue
			}
			q := Query{From: netip.MustParseAddrPort("10.0.0.7:4711"), To: Target{Addr: a, Port: 80}, Command: Connect, Version: SOCKS5}
			if got, want := one.MatchSocks(q).Pass(), each.MatchSocks(q).Pass(); got != want {
				t.Errorf("%v: passed %t by @special, %t by its networks", a, got, want)
			}
			q.To, q.Addrs = Target{Name: "a.test", Port: 80}, []netip.Addr{netip.MustParseAddr("1.1.1.1"), a}
			if got, want := one.MatchSocks(q).Pass(), each.MatchSocks(q).Pass(); got != want {
				t.Errorf("a name at %v: passed %t by @special, %t by its networks", a, got, want)
			}
		}
	}
}

// Findings consider the networks of @special.
func TestLintSpecial(t *testing.T) {
	const head = "socksmethod: none\nclient pass { from: 0/0 to: 0/0 }\n"
	const preset = "socks block { from: 0/0 to: @special command: connect udpassociate }\n"
	for text, want := range map[string]string{
		preset + "socks pass { from: 0/0 to: 0/0 command: connect }":                                                                         "",
		"socks pass { from: 0/0 to: @special command: connect }":                                                                             "this rule lets clients reach this machine at 127.0.0.0/8",
		preset + "socks block { from: 0/0 to: 192.168.1.0/24 command: connect }\nsocks pass { from: 0/0 to: 192.0.3.0/24 command: connect }": "this rule never matches",
		"socks block { from: 0/0 to: 10.0.0.0/8 command: connect }\n" + preset:                                                               "",
		preset + preset: "this rule never matches",
		"socks block { from: @special to: 0/0 command: udpreply }\n" + preset + "socks pass { from: 10.0.0.0/8 to: 0/0 command: udpassociate }\nsocks pass { from: 0/0 to: 10.0.0.0/8 command: udpreply }": "",
	} {
		var found []string
		for _, d := range parse(t, head+text).Lint(t.Context()) {
			found = append(found, d.Message)
		}
		if got := strings.Join(found, "\n"); (got == "") != (want == "") || !strings.Contains(got, want) {
			t.Errorf("%s\ngot %q, want %q", text, got, want)
		}
	}
}

// docs/security.md lists the same networks.
func TestSpecialIsDocumented(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "security.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(text), "| network | |\n|---|---|\n")
	var documented []netip.Prefix
	for line := range strings.Lines(table) {
		cell, ok := strings.CutPrefix(line, "| `")
		if !ok {
			break
		}
		network, _, _ := strings.Cut(cell, "`")
		documented = append(documented, netip.MustParsePrefix(network))
	}
	if !slices.Equal(documented, specialNetworks) {
		t.Errorf("docs/security.md has %v, want %v", documented, specialNetworks)
	}
}
