package main

import (
	"net/netip"
	"os"
	"strings"
	"testing"

	"usher/cmd/usher/internal/policyfile"
	"usher/proxy/rules"
)

// preset returns the rules that docs/security.md gives for pasting.
func preset(t *testing.T) string {
	t.Helper()
	doc, err := os.ReadFile("../../docs/security.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, ok := strings.Cut(string(doc), "\n## Blocking private targets\n")
	_, section, fence := strings.Cut(section, "\n```\n")
	text, _, end := strings.Cut(section, "\n```\n")
	if !ok || !fence || !end {
		t.Fatal("docs/security.md has no rules for blocking private targets")
	}
	return text
}

// TestPresetBlocksPrivateTargets asks the documented rules for both ends of
// what they block and for its public neighbours; no rule may be idle.
func TestPresetBlocksPrivateTargets(t *testing.T) {
	set, found := policyfile.Parse("preset", []byte("socksmethod: none\nclient pass { from: 0/0 to: 0/0 }\n"+preset(t)+"\nsocks pass { from: 0/0 to: 0/0 }\n"), policyfile.Accounts{})
	if set == nil {
		t.Fatal(found)
	}
	client := netip.MustParseAddrPort("10.0.0.7:4711")
	blocked := strings.Fields(`0.0.0.0 0.255.255.255 10.0.0.0 10.255.255.255 100.64.0.0 100.100.100.200 100.127.255.255
		127.0.0.1 127.255.255.255 168.63.129.16 169.254.0.0 169.254.169.254 169.254.255.255 172.16.0.0 172.31.255.255
		192.0.0.192 192.88.99.0 192.88.99.255 192.168.0.0 192.168.255.255 198.18.0.0 198.19.255.255 224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255
		::ffff:127.0.0.1 ::ffff:0:7f00:1 ::ffff:0:0:0 ::ffff:0:ffff:ffff ::ffff:169.254.169.254 ::1 ::127.0.0.1 64:ff9b::7f00:1 64:ff9b::a9fe:a9fe 64:ff9b:1::1 64:ff9b:1:ffff::a00:1
		192.0.0.0 192.0.0.255 192.0.2.1 192.31.196.1 192.52.193.1 192.175.48.1 198.51.100.7 203.0.113.255 100::1 100:0:0:1::1 2001:2::1 2001:2:0:ffff::1 2001:1ff::1
		2001:db8::1 2620:4f:8000::1 3fff::1 3fff:fff::1 5f00::1 2001::1 2001:0:ffff::1 2002:7f00:1::1 2002:a00:1:: fc00::1 fd00:ec2::254 fdff::1 fe80::1 febf::1 fec0::1 ff02::1`)
	public := strings.Fields(`1.1.1.1 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.0 168.63.129.15 169.253.255.255
		169.255.0.0 172.15.255.255 172.32.0.0 192.0.1.1 192.88.98.255 192.88.100.0 192.167.255.255 192.169.0.0 198.17.255.255 198.20.0.0 223.255.255.255
		192.175.49.0 198.51.101.0 203.0.114.0 100:0:0:2::1 2001:200::1 2001:db9::1 2620:4f:8001::1 4000::1 5f01::1 2001:4860::1 2003::1 2600::1 2a00::1 64:ff9a::1 ::fffe:ffff:ffff:ffff ::ffff:1:0:0`)
	used := map[*rules.Rule]bool{}
	pass := func(q rules.Query) bool {
		v := set.MatchSocks(q)
		used[v.Rule] = true
		return v.Pass()
	}
	for _, command := range []rules.Command{rules.Connect, rules.UDPAssociate} {
		ask := func(to rules.Target, addrs ...netip.Addr) bool {
			to.Port = 80
			return pass(rules.Query{From: client, To: to, Addrs: addrs, Command: command, Version: rules.SOCKS5})
		}
		good := netip.MustParseAddr("1.1.1.1")
		for _, a := range blocked {
			bad := netip.MustParseAddr(a)
			if ask(rules.Target{Addr: bad}) || ask(rules.Target{Name: "evil.test"}, bad) || ask(rules.Target{Name: "evil.test"}, good, bad) {
				t.Errorf("command %v: %s is reached", command, a)
			}
		}
		for _, a := range public {
			ip := netip.MustParseAddr(a)
			if !ask(rules.Target{Addr: ip}) || !ask(rules.Target{Name: "good.test"}, ip, good) {
				t.Errorf("command %v: %s is blocked", command, a)
			}
		}
	}
	for _, command := range []rules.Command{rules.BindReply, rules.UDPReply} { // to the client
		q := rules.Query{From: netip.MustParseAddrPort("1.1.1.1:53"), To: rules.Target{Addr: client.Addr(), Port: client.Port()}, Command: command, Version: rules.SOCKS5}
		if !pass(q) {
			t.Errorf("command %v: a reply to a private client is blocked", command)
		}
	}
	bind := rules.Query{From: client, Command: rules.Bind, Version: rules.SOCKS5}
	for _, a := range []string{"127.0.0.1:18080", "192.0.2.10:20000", "[::1]:18080"} {
		at := netip.MustParseAddrPort(a)
		bind.To = rules.Target{Addr: at.Addr(), Port: at.Port()}
		if pass(bind) {
			t.Errorf("BIND at %s is open", a)
		}
	}
	for _, r := range set.Socks {
		if !used[r] {
			t.Errorf("%v: no case above needs this rule", r.Pos)
		}
	}
}
