package admin

import (
	"time"

	"usher/limiter"
)

// Snapshot is what the admin listener shows of the process at one moment. The
// caller fills it in; field names in JSON are an interface for scripts.
type Snapshot struct {
	Version  string    `json:"version"`
	Started  time.Time `json:"started"`
	Listen   []string  `json:"listen"`
	Sessions int       `json:"sessions"` // on this replica
	Rules    Rules     `json:"rules"`
	Store    Store     `json:"store"`
}

// Rules are the rules in force and how the last attempt to load them went.
type Rules struct {
	File       string      `json:"file"`
	Digest     string      `json:"digest"`
	Generation string      `json:"generation"` // label such as g5-9f31c2ab
	Number     uint64      `json:"number"`     // of the generation, 0 if not known yet
	Loaded     time.Time   `json:"loaded"`     // when the rules in force were loaded
	ReloadOK   bool        `json:"reload_ok"`  // of the last attempt
	ReloadErr  string      `json:"reload_error,omitempty"`
	Limits     []RuleLimit `json:"limits"` // generation in force first, then older ones with sessions
}

// Limited reports whether a rule in force has a limit.
func (r Rules) Limited() bool {
	for _, l := range r.Limits {
		if l.Current {
			return true
		}
	}
	return false
}

// RuleLimit is a limit and how much of it is used over all replicas.
type RuleLimit struct {
	Rule       string `json:"rule"`  // c1, s2
	Place      string `json:"place"` // file:line:col
	Generation string `json:"generation"`
	Current    bool   `json:"current"`  // of the rules in force
	Max        int64  `json:"max"`      // -1: none, the rule limits rates or each key only
	Sessions   int64  `json:"sessions"` // over all replicas, as last heard
}

// Store is how this replica stands with the place where all replicas count.
type Store struct {
	Address      string `json:"address"` // without its password
	Joined       bool   `json:"joined"`
	WasReady     bool   `json:"was_ready"`
	Recovering   bool   `json:"recovering"`
	Mismatch     string `json:"mismatch,omitempty"`
	ReplicaCount int    `json:"replica_count"` // members of the store
	Generations  int    `json:"generations"`   // distinct ones among them
	// Replicas are the members of the store: id of the replica -> digest of its rules.
	Replicas map[string]string `json:"replicas,omitempty"`
	// LeasesLost is how often a lease ended with sessions that relied on it.
	LeasesLost uint64 `json:"leases_lost"`
	// Failure is what failed last, and FailingSince when it began to; both are
	// zero if nothing does. A store may be joined and fail.
	Failure      string    `json:"failure,omitempty"`
	FailingSince time.Time `json:"failing_since,omitzero"`
}

// StoreOf returns what st says about the store at address.
func StoreOf(address string, st limiter.Status) Store {
	distinct := map[string]bool{}
	for _, digest := range st.Replicas {
		distinct[digest] = true
	}
	return Store{
		Address: address, Joined: st.Joined, WasReady: st.WasReady, Recovering: st.Recovering, Mismatch: st.Mismatch,
		ReplicaCount: len(st.Replicas), Generations: len(distinct), Replicas: st.Replicas, LeasesLost: st.LeasesLost,
	}
}

// trouble says why limited rules cannot admit anybody now, "" if they can.
func (s Store) trouble() string {
	switch {
	case s.Mismatch != "":
		return "other replicas run with other lease settings: " + s.Mismatch
	case !s.Joined:
		return s.because("the store is not joined")
	case s.Recovering:
		return s.because("the store is recovering: it admits no new limited sessions yet")
	}
	return ""
}

// because adds to a reason what failed last, if something does.
func (s Store) because(reason string) string {
	if s.Failure == "" {
		return reason
	}
	return reason + "; " + s.Failing()
}

// Failing says of a store that fails since when and how.
func (s Store) Failing() string {
	return "failing since " + s.FailingSince.Format(time.RFC3339) + ", last " + s.Failure
}
