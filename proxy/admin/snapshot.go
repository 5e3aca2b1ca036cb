package admin

import (
	"time"

	"usher/limiter"
)

// Snapshot is the state of the process that the admin listener shows. The caller
// fills it in. The JSON field names are an interface for scripts.
type Snapshot struct {
	Version  string    `json:"version"`
	Replica  string    `json:"replica"` // USHER_REPLICA
	PID      int       `json:"pid"`
	Started  time.Time `json:"started"`
	Listen   []string  `json:"listen"`
	Sessions int       `json:"sessions"` // on this replica
	Rules    Rules     `json:"rules"`
	Store    Store     `json:"store"`
	Upgrade  Request   `json:"upgrade"` // in place
	Undrain  Request   `json:"undrain"`
}

// Request is the result of the last request of an operator.
type Request struct {
	Asked   uint64 `json:"asked"` // how many there were since the start
	Running bool   `json:"running"`
	Error   string `json:"error,omitempty"` // why the last one failed
}

// Rules are the rules in force and the outcome of the last load.
type Rules struct {
	File       string      `json:"file"`
	Digest     string      `json:"digest"`
	Generation string      `json:"generation"` // label such as g5-9f31c2ab
	Number     uint64      `json:"number"`     // of the generation, 0 until the store has returned it
	Loaded     time.Time   `json:"loaded"`     // when the rules in force were loaded
	Loads      uint64      `json:"loads"`      // since the start, failed ones included
	ReloadOK   bool        `json:"reload_ok"`  // the last load succeeded
	ReloadErr  string      `json:"reload_error,omitempty"`
	Published  *Published  `json:"published,omitempty"` // nil without USHER_CONFIG=store
	Limits     []RuleLimit `json:"limits"`              // current generation first, then older ones with sessions
}

// Published says which of the published rules this replica has (USHER_CONFIG=store).
type Published struct {
	Number  uint64 `json:"number"`            // in force here, 0 if none
	Newest  uint64 `json:"newest"`            // in the store, when it was last asked
	Refused uint64 `json:"refused,omitempty"` // the number that this replica does not accept
	Reason  string `json:"reason,omitempty"`  // why
	Trouble string `json:"trouble,omitempty"` // why the published rules cannot be read
	// Silent are members of the store that do not follow the published rules.
	Silent []string `json:"silent,omitempty"`
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

// RuleLimit is a limit and its use across all replicas.
type RuleLimit struct {
	Rule       string `json:"rule"`     // c1, s2
	Name       string `json:"name"`     // its label in metrics: rule.name, or derived from the rule
	Location   string `json:"location"` // file:line
	Generation string `json:"generation"`
	Pool       string `json:"pool,omitempty"` // that it counts in
	Mode       string `json:"mode"`           // session.mode: enforce, or report
	Current    bool   `json:"current"`        // belongs to the rules in force
	Max        int64  `json:"max"`            // -1: no limit for all sessions, only rates or limits by key
	Sessions   int64  `json:"sessions"`       // across all replicas, as last read from the store; of the whole pool
}

// Store is the state of this replica in the store.
type Store struct {
	Address      string `json:"address"` // without password
	Joined       bool   `json:"joined"`
	WasReady     bool   `json:"was_ready"`
	Recovering   bool   `json:"recovering"`
	Mismatch     string `json:"mismatch,omitempty"`
	ReplicaCount int    `json:"replica_count"` // members of the store
	Generations  int    `json:"generations"`   // distinct ones among them
	// Replicas are the members of the store: id of the replica -> digest of its rules.
	Replicas map[string]string `json:"replicas,omitempty"`
	// LeasesLost counts leases that ended while sessions relied on them.
	LeasesLost uint64 `json:"leases_lost"`
	// Failure is the last failure of the current outage, and FailingSince when the
	// outage began; both are zero without one. A joined store may fail as well.
	Failure      string    `json:"failure,omitempty"`
	FailingSince time.Time `json:"failing_since,omitzero"`
}

// StoreOf returns the state of the store at address, from the status of the limiter.
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

// trouble returns why the store confirms no session now, "" if it does.
func (s Store) trouble() string {
	switch {
	case s.Mismatch != "":
		return "other replicas have conflicting lease settings: " + s.Mismatch
	case !s.Joined:
		return s.because("the store is not joined")
	case s.Recovering:
		return s.because("the store is recovering: it confirms no new sessions yet")
	}
	return ""
}

// because adds the last failure of the store, if there is one, to a reason.
func (s Store) because(reason string) string {
	if s.Failure == "" {
		return reason
	}
	return reason + "; " + s.Failing()
}

// Failing describes the outage: its begin and last failure.
func (s Store) Failing() string {
	return "failing since " + s.FailingSince.Format(time.RFC3339) + ", last error: " + s.Failure
}
