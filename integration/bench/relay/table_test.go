package main

import (
	"strings"
	"testing"
)

// The table has the median of the rounds and their range, and ratios within a round.
func TestTable(t *testing.T) {
	defer func(all []*peer) { peers = all }(peers)
	peers = []*peer{{name: "usher", can: []string{ownProcess}}, {name: "danted", can: []string{ownProcess}}, {name: "direct"}}
	cpu, took := "session: CPU µs", "session"+elapsed+"µs"
	r := results{
		{cpu, "usher"}: {100, 300, 200}, {cpu, "danted"}: {200, 200, 200}, {cpu, "direct"}: {0, 0, 0},
		{took, "usher"}: {10, 10, 10}, {took, "direct"}: {5, 5, 5},
	}
	var text strings.Builder
	r.print(&text, []measurement{{of: []string{cpu, took}}, {of: []string{"not measured"}}})
	const want = `| | usher | danted | usher / danted |
|---|---|---|---|
| session: CPU µs | 200 (100 to 300) | 200 | 1.00x (0.50x to 1.50x) |

| | usher | danted | direct | usher / danted | usher / direct |
|---|---|---|---|---|---|
| session: elapsed µs | 10 | - | 5 | - | 2.00x |
`
	if text.String() != want {
		t.Errorf("%s\nwant\n%s", text.String(), want)
	}
}
