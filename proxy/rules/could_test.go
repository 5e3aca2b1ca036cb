package rules

import (
	"net/netip"
	"testing"

	"pgregory.net/rapid"
)

// If a rule passes a name at some addresses, CouldPass reports that one could pass. If
// it names a rule that blocks all addresses, that rule decides about each.
func TestCouldPassIsNoGuess(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		set, diags := Parse("random", []byte(anyRules(t)), testEnv)
		if set == nil {
			t.Fatalf("refused:\n%s", findings(diags))
		}
		for range 15 {
			q := anyQuery(t)
			q.Lookup = dns
			q.Command = rapid.SampledFrom([]Command{Connect, Connect, Bind, UDPAssociate}).Draw(t, "command")
			if q.To.Name == "" && q.Command != Bind {
				q.To.Name, q.To.Addr = "two.test", netip.Addr{}
			}
			if q.To.Name != "" && len(q.Addrs) == 0 {
				q.Addrs = dns("two.test")
			}
			if q.Command == Bind {
				q.To.Name, q.Addrs, q.To.Addr = "", nil, netip.MustParseAddr("10.1.2.3")
			}
			blocks, could, steps := set.ExplainCouldPass(q)
			v := set.MatchSocks(q)
			switch {
			case v.Pass() && !could:
				t.Fatalf("%+v: passed by %s, and said to be impossible", q, v.Rule.ID())
			case blocks != nil && (v.Rule == nil || v.Rule.Number > blocks.Number):
				t.Fatalf("%+v: %s blocks everything, but %+v decides", q, blocks.ID(), v.Rule)
			case blocks != nil && steps[len(steps)-1].Rule != blocks, blocks == nil && len(steps) != len(set.Socks):
				t.Fatalf("%+v: %d steps of %d rules", q, len(steps), len(set.Socks))
			}
		}
	})
}

// A name is looked up only if this can change the verdict.
func TestCouldPass(t *testing.T) {
	const all = "socks pass { from: 0/0 to: 0/0 }\n"
	client := netip.MustParseAddrPort("10.0.0.1:4711")
	for text, want := range map[string]struct{ connect, bind string }{ // the rule that blocks, "-" if there is none, "" if some rule could pass
		all: {},
		"socks block { from: 0/0 to: 0/0 }\n" + all:                                                                                                                                   {"s1", "s1"},
		"socks block { from: 0/0 to: @special }\n" + all:                                                                                                                              {},
		"socks block { from: 0/0 to: 0/0 port = 80 }\n" + all:                                                                                                                         {connect: "s1"},
		"socks block { from: 0/0 to: 0/0 port != 80 }\n" + all:                                                                                                                        {},
		"socks block { from: 0/0 to: 0.0.0.0/0 }\n" + all:                                                                                                                             {},
		"socks block { from: 0/0 to: 0.0.0.0/0 }\nsocks block { from: 0/0 to: ::/0 }\n" + all:                                                                                         {"-", "-"},
		"socks block { from: 0/0 to: 0.0.0.0/1 }\nsocks block { from: 0/0 to: 128.0.0.0/1 }\nsocks block { from: 0/0 to: ::/0 }\n" + all:                                              {"-", "-"},
		"socks block { from: 0/0 to: 0.0.0.0/1 }\nsocks block { from: 0/0 to: 128.0.0.0/2 }\nsocks block { from: 0/0 to: ::/0 }\n" + all:                                              {}, // 192.0.0.0/2 is left
		"socks block { from: 0/0 to: 0.0.0.0/1 }\nsocks block { from: 0/0 to: 128.0.0.0/1 port = 80 }\nsocks block { from: 0/0 to: ::/0 }\n" + all:                                    {connect: "-"},
		"socks block { from: 0/0 to: 0.0.0.0/1 }\nsocks block { from: 192.0.2.0/24 to: 128.0.0.0/1 }\nsocks block { from: 0/0 to: ::/0 }\n" + all:                                     {},
		"socks block { from: 0/0 to: 0.0.0.0/0 }\nsocks block { from: 0/0 to: ::/1 }\nsocks pass { from: 0/0 to: 0/0 }\nsocks block { from: 0/0 to: 8000::/1 }":                       {}, // too late
		"socks block { from: 0/0 to: 10.0.0.0/9 }\nsocks block { from: 0/0 to: 10.192.0.0/10 }\nsocks block { from: 0/0 to: 10.128.0.0/10 }\nsocks pass { from: 0/0 to: 10.0.0.0/8 }": {"-", "-"},
		"socks block { from: 0/0 to: @special }\nsocks block { from: 0/0 to: 11.0.0.0/8 }\nsocks pass { from: 0/0 to: 10.0.0.0/7 }":                                                   {"-", "-"},
		"socks block { from: 0/0 to: 0.0.0.0/0 }\nsocks pass { from: 0/0 to: 10.0.0.0/8 }":                                                                                            {"-", "-"},
		"socks block { from: 0/0 to: 0.0.0.0/0 }\nsocks pass { from: 0/0 to: ::/0 }":                                                                                                  {},
		"socks block { from: 0/0 to: @special }\nsocks pass { from: 0/0 to: 10.0.0.0/8 }":                                                                                             {"-", "-"},
		"socks block { from: 0/0 to: 10.0.0.0/8 port = 80 }\nsocks pass { from: 0/0 to: 10.0.0.0/8 }":                                                                                 {connect: "-"},
		"socks block { from: 0/0 to: 10.1.0.0/16 }\nsocks pass { from: 0/0 to: 10.0.0.0/8 }":                                                                                          {},
		"socks pass { from: 0/0 to: .example.com }":                                                                                                                                   {bind: "-"},
		"socks pass { from: 0/0 to: .example.org }":                                                                                                                                   {"-", "-"},
		"socks pass { from: 0/0 to: www.example.com }":                                                                                                                                {},
		"socks pass { from: 0/0 to: other.test }":                                                                                                                                     {}, // may share an address
		"socks block { from: 0/0 to: www.example.com }\n" + all:                                                                                                                       {connect: "s1"},
		"socks block { from: 0/0 to: .com }\n" + all:                                                                                                                                  {connect: "s1"},
		"socks block { from: other.test to: 0/0 }\n" + all:                                                                                                                            {}, // the client may be another one
		"socks pass { from: 192.0.2.0/24 to: 0/0 }":                                                                                                                                   {"-", "-"},
		"socks pass { from: 0/0 to: 0/0 command: connect }":                                                                                                                           {bind: "-"},
		"socks pass { from: 0/0 to: 0/0 command: bind }":                                                                                                                              {connect: "-"},
		"socks pass { from: 0/0 to: 0/0 port = 443 command: connect bind }":                                                                                                           {connect: "-"},
		"socks pass { from: 0/0 to: 0/0\nuser: monica }":                                                                                                                              {"-", "-"},
		"socks pass { from: 0/0 to: down0 }":                                                                                                                                          {"-", "-"},
		"socks pass { from: 0/0 to: eth0 }":                                                                                                                                           {},
		"socks block { from: 0/0 to: 10.1.2.3/32 }\nsocks block { from: 0/0 to: fe80::/10 }\nsocks pass { from: 0/0 to: eth0 }":                                                       {"-", "-"},
	} {
		set := parse(t, text)
		for command, want := range map[Command]string{Connect: want.connect, Bind: want.bind} {
			q := Query{From: client, To: Target{Name: "WWW.example.com.", Port: 80}, Command: command, Version: SOCKS5}
			blocks, could := set.CouldPass(q)
			got := ""
			switch {
			case blocks != nil:
				got = "s" + string(rune('0'+blocks.Number))
			case !could:
				got = "-"
			}
			if got != want || could != (want == "") {
				t.Errorf("%s\n%s: %q, could pass: %t; want %q", text, command, got, could, want)
			}
		}
	}
}
