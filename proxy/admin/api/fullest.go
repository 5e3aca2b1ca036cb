package api

import (
	"cmp"
	"slices"
	"strings"

	"usher/proxy/record"
)

// Bounds of Limit.Keys and Limit.Holders. A replica tells others more than an answer
// has, because the fullest key over all replicas need not be the fullest on each.
const (
	KeysOfReplica = 50
	KeysOfAnswer  = 10
)

// KeepForOthers keeps what a replica tells others of Keys and Holders. Partial says whether
// it has more.
func (l *Limit) KeepForOthers() {
	l.Partial = max(len(l.Keys), len(l.Holders)) > KeysOfReplica
	l.KeepFullest(KeysOfReplica)
}

// KeepFullest orders Keys and Holders, those with most sessions first, and keeps n of
// each.
func (l *Limit) KeepFullest(n int) {
	slices.SortFunc(l.Keys, func(a, b Key) int {
		return cmp.Or(cmp.Compare(b.Sessions, a.Sessions), strings.Compare(a.Key, b.Key))
	})
	slices.SortFunc(l.Holders, func(a, b record.Holder) int {
		return cmp.Or(cmp.Compare(b.Sessions, a.Sessions), a.Client.Compare(b.Client), strings.Compare(a.User, b.User))
	})
	l.Keys, l.Holders = l.Keys[:min(n, len(l.Keys))], l.Holders[:min(n, len(l.Holders))]
}
