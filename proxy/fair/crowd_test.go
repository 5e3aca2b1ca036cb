package fair

import (
	"math/rand/v2"
	"net/netip"
	"testing"
)

func source(n int) netip.Prefix {
	return SourceOf(netip.AddrFrom4([4]byte{192, 0, byte(n >> 8), byte(n)}))
}

func TestSources(t *testing.T) {
	for addr, want := range map[string]string{
		"192.0.2.1": "192.0.2.1/32", "::ffff:192.0.2.1": "192.0.2.1/32",
		"2001:db8:1:2:3:4:5:6": "2001:db8:1:2::/64", "fe80::1%lo": "fe80::/64",
	} {
		if got := SourceOf(netip.MustParseAddr(addr)).String(); got != want {
			t.Errorf("%s is of %s, want %s", addr, got, want)
		}
	}
}

// TestVictimHasTheMost compares a crowd with a plain count through random steps.
func TestVictimHasTheMost(t *testing.T) {
	var c Crowd[int]
	counts := map[netip.Prefix]int{}
	var in []*Member[int]
	most := func() (n int) {
		for _, count := range counts {
			n = max(n, count)
		}
		return n
	}
	remove := func(i int) {
		counts[in[i].group.source]--
		c.Remove(in[i])
		c.Remove(in[i]) // twice is harmless
		in[i] = in[len(in)-1]
		in = in[:len(in)-1]
	}
	for step := range 20000 {
		switch what := rand.IntN(10); {
		case what < 5 || len(in) == 0:
			from := source(rand.IntN(8))
			counts[from]++
			in = append(in, c.Add(from, step))
		case what < 8:
			remove(rand.IntN(len(in)))
		default:
			m, to := in[rand.IntN(len(in))], source(rand.IntN(8))
			counts[m.group.source]--
			counts[to]++
			c.SetSource(m, to)
		}
		if c.Len() != len(in) || c.largest != most() {
			t.Fatalf("step %d: %d members, the most of a source %d; want %d and %d", step, c.Len(), c.largest, len(in), most())
		}
		if len(in) == 0 {
			continue
		}
		joining := source(rand.IntN(9))
		victim := c.Victim(joining).group.source
		if have := counts[victim]; have < most() || counts[joining] == most() && victim != joining {
			t.Fatalf("step %d: for one of %v the victim is of %v, in %v", step, joining, victim, counts)
		}
	}
	for len(in) > 0 {
		remove(0)
	}
	if c.Len() != 0 || c.largest != 0 || len(c.groups) != 0 || c.Victim(source(1)) != nil {
		t.Errorf("not empty: %+v", c)
	}
}

// TestVictimIsRandom: within a source, and among sources with the same number of
// members, the victim does not depend on how long a member has been there.
func TestVictimIsRandom(t *testing.T) {
	const members, rounds = 256, 256 * 200
	for name, sources := range map[string]int{"one source": 1, "a source each": members} {
		var c Crowd[int]
		for i := range members {
			c.Add(source(i%sources), i)
		}
		times := make([]int, members)
		for range rounds {
			times[c.Victim(source(members)).Value]++
		}
		for i, n := range times {
			if n < 100 || n > 300 { // 200, give or take 14
				t.Errorf("%s: %d was drawn in %d of %d rounds, want about one of %d", name, i, n, rounds, members)
			}
		}
	}
}
