package limiter_test

import (
	"testing"
	"time"

	"usher/limiter"
	"usher/store/limit"
	"usher/store/memstore"
)

// BenchmarkAdmission is what a session without a pool costs a replica: it is admitted
// by a client-rule, moves to a socks-rule and ends. The store is in memory.
func BenchmarkAdmission(b *testing.B) {
	for _, c := range []struct {
		name   string
		client limiter.Limit
		socks  limiter.Limit
	}{
		{"plain", limiter.Limit{}, limiter.Limit{Rule: "a/s1", Max: 9}},
		{"both", limiter.Limit{Rule: "a/c1", Max: 9}, limiter.Limit{Rule: "a/s1", Max: 9}},
		{"report", limiter.Limit{}, limiter.Limit{Rule: "a/s1", Max: 9, Report: true}},
		{"key", limiter.Limit{}, limiter.Limit{Rule: "a/s1", Max: 9, Key: "from=192.0.2.1", KeyMax: 9}},
		{"rate", limiter.Limit{}, limiter.Limit{Rule: "a/s1", Max: limit.None, Throttle: limit.Rate{N: 1 << 30, Per: time.Hour}}},
	} {
		b.Run(c.name, func(b *testing.B) {
			l := limiter.New(limiter.Options{Store: memstore.New(), TTL: time.Hour, StoreWait: time.Minute})
			defer l.Close(b.Context())
			l.SetSpace("a", nil)
			for b.Loop() {
				g, err := l.Admit(b.Context(), c.client)
				if err == nil {
					err = g.Move(b.Context(), c.socks)
				}
				if err != nil {
					b.Fatal(err)
				}
				g.Release()
			}
		})
	}
}
