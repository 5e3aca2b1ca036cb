package api_test

import (
	"testing"
	"time"

	"usher/proxy/admin/api"
)

// A reason about the store says whom limited rules admit meanwhile.
func TestReasonsSayWhomLimitsAdmit(t *testing.T) {
	fails := api.Store{Joined: true, Failure: "EOF", FailingSince: time.Unix(1e9, 0)}
	recovers := api.Store{Joined: true, Recovering: true}
	locally := func(s api.Store) api.Store {
		s.AdmitLocally = true
		return s
	}
	for want, store := range map[string]api.Store{
		"the store has failed since 2001-09-09T01:46:40Z; until it answers, rules that enforce limits admit nobody: EOF":                      fails,
		"the store has failed since 2001-09-09T01:46:40Z; until it answers, rules that enforce limits admit by each replica's own count: EOF": locally(fails),
		"the store is recovering; until it has, rules that enforce limits admit nobody":                                                       recovers,
		"the store is recovering; until it has, rules that enforce limits admit by each replica's own count":                                  locally(recovers),
	} {
		c := api.Cluster{Store: store, Replicas: []api.Replica{{State: api.Alive, Ready: true}}}
		c.Judge()
		if c.Health != api.Degraded || len(c.Reasons) != 1 || c.Reasons[0] != want {
			t.Errorf("%s, because %q, want %q", c.Health, c.Reasons, want)
		}
	}
}
