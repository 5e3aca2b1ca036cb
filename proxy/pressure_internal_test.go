package proxy

import (
	"net/netip"
	"slices"
	"testing"
)

// Of the source that takes most, the session that takes most goes first.
func TestHeaviest(t *testing.T) {
	a, b, none := netip.MustParsePrefix("192.0.2.1/32"), netip.MustParsePrefix("2001:db8::/64"), netip.Prefix{}
	list := []buffered{{nil, a, 10}, {nil, b, 50}, {nil, a, 30}, {nil, none, 5}, {nil, a, 25}, {nil, b, 1}}
	for _, c := range []struct {
		excess int64
		want   []int64
	}{{-1, nil}, {0, nil}, {1, []int64{30}}, {31, []int64{30, 50}}, {81, []int64{30, 50, 25}}, {1000, []int64{30, 50, 25, 10, 5, 1}}} {
		var got []int64
		for _, v := range heaviest(slices.Clone(list), c.excess) {
			got = append(got, v.bytes)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("for %d: %v, want %v", c.excess, got, c.want)
		}
	}
}
