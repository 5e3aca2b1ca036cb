package rules

import (
	"slices"
	"testing"
)

// Each rule asks for one thing more; the last one decides.
func TestExplainSocks(t *testing.T) {
	set := parse(t, `
socks pass { from: 0/0 to: 0/0
  command: bind }
socks pass { from: 0/0 to: 0/0
  command: connect
  protocol: udp }
socks pass { from: 0/0 to: 0/0
  proxyprotocol: socks_v4 }
socks pass { from: 0/0 to: 0/0
  socksmethod: none }
socks pass { from: 0/0 to: 0/0
  user: erik ada }
socks pass { from: 0/0 to: 0/0
  group: staff }
socks pass { from: 0/0 port < 1024 to: 0/0 }
socks pass { from: 10.0.0.0/8 to: 0/0 }
socks pass { from: 0/0 to: 0/0 port != 80 }
socks pass { from: 0/0 to: 192.0.2.0/25 }
socks block { from: 0/0 to: two.test }
socks pass { from: 0/0 to: 0/0 }
`)
	want := []string{
		"command: connect is not in command: bind",
		"command: connect is not in command: nothing, as command: and protocol: have no command in common",
		"proxyprotocol: socks_v5 is not in proxyprotocol: socks_v4",
		"socksmethod: username is not in socksmethod: none",
		"user: monica is not in user: ada erik",
		"group: monica is not in group: staff",
		"from port: 4000 is not in from: ... port 0-1023",
		"from: 127.0.0.1 is not in from: 10.0.0.0/8",
		"to port: 80 is not in to: ... port != 80",
		": ", // two.test has an address inside
	}
	v, steps := set.ExplainSocks(request("two.test", 80).as("monica", "guests"))
	if got := decision(v); got != "s10 192.0.2.2" {
		t.Fatal(got)
	}
	for i, s := range steps {
		if got := s.Mismatch.String() + ": " + s.Why; got != want[i] {
			t.Errorf("%s: got %q, want %q", s.Rule.ID(), got, want[i])
		}
	}
	if len(steps) != len(want) || steps[9].Mismatch != NoMismatch {
		t.Errorf("%d steps, last %+v", len(steps), steps[len(steps)-1])
	}
	v, steps = set.ExplainSocks(request("six.test", 80).as("monica"))
	if want := "six.test 2001:db8::6 is not in to: two.test"; decision(v) != "s12 2001:db8::6" || steps[10].Why != want {
		t.Errorf("%s after %q, want %q", decision(v), steps[10].Why, want)
	}
	_, steps = parse(t, "socks pass { from: 0/0 to: 0/0\nuser: ada }").ExplainSocks(request("10.9.9.9", 81))
	if want := "a client without a name is not in user: ada"; steps[0].Why != want {
		t.Errorf("got %q, want %q", steps[0].Why, want)
	}
}

func TestExplainWithoutADecision(t *testing.T) {
	set := parse(t, `
client pass { from: 10.0.0.0/8 to: 0/0 port = 1080 }
client pass { from: 0/0 to: 10.0.0.1/32 }
socks block { from: 0/0 to: 10.0.0.0/8 }
`)
	q := request("127.0.0.1", 1081)
	v, steps := set.ExplainClient(q.from("10.0.0.1:7"))
	why := []string{steps[0].Why, steps[1].Why}
	if want := []string{"1081 is not in to: ... port = 1080", "127.0.0.1 is not in to: 10.0.0.1/32"}; v.Rule != nil || !slices.Equal(why, want) {
		t.Errorf("%s after %q, want %q", decision(v), why, want)
	}
	q.To = Target{}
	v, steps = set.ExplainSocks(q.command(UDPAssociate))
	if want := "the request for an association names no target yet, and to: 10.0.0.0/8 does not block all of them"; v.Rule != nil || steps[0].Why != want {
		t.Errorf("%s after %q", decision(v), steps[0].Why)
	}
}

// Only a to: that holds some local addresses of a family, and not all, tells
// them apart.
func TestSplits(t *testing.T) {
	for to, want := range map[string][2]bool{ // of IPv4, of IPv6
		"0/0": {}, "0.0.0.0/0": {}, "::/0": {}, "10.0.0.0/8": {true, false}, "0.0.0.0/1": {true, false}, "2001:db8::/32": {false, true},
		"lo": {true, true}, "one.test": {true, true}, "10.0.0.0/8 port = 1081": {},
	} {
		for i, every := range []string{"0.0.0.0", "::"} {
			ask := request(every, 1080)
			_, steps := parse(t, "client pass { from: 0/0 to: "+to+" }").ExplainClient(ask)
			if got := steps[0].Splits(ask.To.Addr); got != want[i] {
				t.Errorf("%s, %s: got %v", to, every, got)
			}
			_, steps = parse(t, "client pass { from: 192.0.2.0/24 to: "+to+" }").ExplainClient(ask)
			if steps[0].Splits(ask.To.Addr) {
				t.Errorf("%s, %s: of a rule for other clients", to, every)
			}
		}
	}
}
