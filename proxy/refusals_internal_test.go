package proxy

import (
	"strconv"
	"testing"

	"usher/proxy/record"
)

// The last thousand refusals are kept, the newest first.
func TestLastRefusals(t *testing.T) {
	var r lastRefusals
	for n := range 2*maxRefusals + 7 {
		r.add(record.End{Reason: strconv.Itoa(n)})
		if n%97 > 0 && n > 3 {
			continue
		}
		list := r.newest()
		if len(list) != min(n+1, maxRefusals) {
			t.Fatalf("%d refusals after %d", len(list), n+1)
		}
		if newest, oldest := list[0].Reason, list[len(list)-1].Reason; newest != strconv.Itoa(n) || oldest != strconv.Itoa(n+1-len(list)) {
			t.Fatalf("from %s to %s, want from %d to %d", newest, oldest, n, n+1-len(list))
		}
	}
}
