// Package api is the API of the admin listener under /api/v1: the answers, what serves
// them and a client. Any replica answers for the whole cluster.
package api

import (
	"time"

	"usher/proxy/record"
)

// Replica is a member of the cluster, or was one not long ago.
type Replica struct {
	ID         string    `json:"id"`                // in the store
	Name       string    `json:"name"`              // USHER_REPLICA
	Address    string    `json:"address,omitempty"` // of its admin listener; "": nobody can ask it
	Version    string    `json:"version,omitempty"`
	State      string    `json:"state"`           // Alive ...
	Error      string    `json:"error,omitempty"` // why it does not answer
	Started    time.Time `json:"started,omitzero"`
	Seen       time.Time `json:"seen,omitzero"` // when it last showed itself in the store
	Generation string    `json:"generation,omitempty"`
	Digest     string    `json:"digest,omitempty"`
	Sessions   int       `json:"sessions"`
	Ready      bool      `json:"ready"`
	Reason     string    `json:"reason,omitempty"` // why it is not ready
	// ReloadError says why it keeps older rules than those that it was to load last.
	ReloadError string `json:"reload_error,omitempty"`
}

// States of a replica.
const (
	Alive    = "alive"
	Draining = "draining" // takes no new sessions
	Silent   = "missing"  // a member of the store that does not answer
	Dead     = "dead"     // its lease has ended, and it does not answer
)

// Missing is a replica whose part of an answer is not there.
type Missing struct {
	Replica string `json:"replica"` // its name, or its id if that is not known
	Address string `json:"address,omitempty"`
	Error   string `json:"error"`
}

// Answer is part of every answer.
type Answer struct {
	Time    time.Time `json:"time"`
	Replica string    `json:"replica"` // that answers
	Missing []Missing `json:"missing"` // never null
}

// Store is the store of the cluster, as the answering replica sees it.
type Store struct {
	Address      string    `json:"address"` // without password
	Joined       bool      `json:"joined"`
	Recovering   bool      `json:"recovering"`
	Mismatch     string    `json:"mismatch,omitempty"`
	Failure      string    `json:"failure,omitempty"`
	FailingSince time.Time `json:"failing_since,omitzero"`
	LeaseSeconds float64   `json:"lease_seconds"` // USHER_LEASE_TTL
	Strict       bool      `json:"strict"`        // USHER_LEASE_LOSS=close
	AdmitLocally bool      `json:"admit_locally"` // USHER_STORE_DOWN=admit
}

// Cluster is the answer of /api/v1/cluster.
type Cluster struct {
	Answer
	Cluster  string    `json:"cluster"` // USHER_CLUSTER
	Health   string    `json:"health"`  // OK ...
	Reasons  []string  `json:"reasons"` // why it is not ok; never null
	Sessions int       `json:"sessions"`
	Store    Store     `json:"store"`
	Replicas []Replica `json:"replicas"`
	Writing  bool      `json:"writing"` // a token is set: sessions can be ended
}

// Rule is a rule of a generation.
type Rule struct {
	Rule     string `json:"rule"` // c1, s2
	Name     string `json:"name"`
	Location string `json:"location"` // file:line
	Verdict  string `json:"verdict"`  // pass, block
	Text     string `json:"text"`
	Limited  bool   `json:"limited"`
	Sessions int    `json:"sessions"` // over the replicas that have answered
}

// Generation is a generation of rules that is in force somewhere, or has sessions.
type Generation struct {
	Label    string   `json:"generation"` // g5-9f31c2ab
	Number   uint64   `json:"number"`
	Digest   string   `json:"digest"`
	Current  bool     `json:"current"`  // in force on the answering replica
	Replicas []string `json:"replicas"` // on which it is in force
	Sessions int      `json:"sessions"`
	Rules    []Rule   `json:"rules"`
}

// Rules is the answer of /api/v1/rules.
type Rules struct {
	Answer
	Generations []Generation `json:"generations"` // the one in force first
}

// Share is the part of a limit that one replica holds.
type Share struct {
	Replica  string `json:"replica"`
	Sessions int    `json:"sessions"`
}

// Key is one key of a limit by key.
type Key struct {
	Key      string  `json:"key"` // a client address or user
	Sessions int     `json:"sessions"`
	Max      int64   `json:"max"`
	Shares   []Share `json:"shares"`
}

// Limit is a rule with a limit, and its use.
type Limit struct {
	Rule       string  `json:"rule"`
	Name       string  `json:"name"`
	Location   string  `json:"location"` // file:line
	Generation string  `json:"generation"`
	Digest     string  `json:"digest"` // of the generation
	Current    bool    `json:"current"`
	Pool       string  `json:"pool,omitempty"`
	Mode       string  `json:"mode"` // enforce, report
	Max        int64   `json:"max"`  // -1: no limit for all sessions together
	KeyMax     int64   `json:"key_max,omitempty"`
	Sessions   int64   `json:"sessions"` // over all replicas, from the store; of the whole pool
	Shares     []Share `json:"shares"`   // of the replicas that have answered
	Keys       []Key   `json:"keys"`     // the fullest ones
	Refused    uint64  `json:"refused"`  // by this limit in the last minute, on the replicas that have answered
	// Holders are the clients and users with most of its sessions, at most ten, over the
	// replicas that have answered.
	Holders []record.Holder `json:"holders"`
	// Partial: some replica has more keys or clients than it tells the others, so the
	// sessions of keys and holders are at least what they say.
	Partial bool `json:"partial,omitempty"`
	// WouldRefuse counts, in mode report, the sessions that enforce would have refused
	// on the replicas that have answered, until the last session of the generation ends.
	WouldRefuse uint64    `json:"would_refuse,omitempty"`
	Highest     int64     `json:"highest"` // that was seen, since the replicas have started
	HighestAt   time.Time `json:"highest_at,omitzero"`
}

// Limits is the answer of /api/v1/limits.
type Limits struct {
	Answer
	Limits []Limit `json:"limits"` // the generation in force first
}

// Sessions is the answer of /api/v1/sessions.
type Sessions struct {
	Answer
	Total    int              `json:"total"` // that match the filter
	Offset   int              `json:"offset"`
	Sessions []record.Running `json:"sessions"`
}

// SessionsChanged is the event sessions.
type SessionsChanged struct {
	Answer
	Total  int              `json:"total"`
	Newest []record.Running `json:"newest"` // the one that began last, if there is one
}

// Refusals is the answer of /api/v1/refusals, newest first.
type Refusals struct {
	Answer
	Total    int          `json:"total"` // that match the filter
	Offset   int          `json:"offset"`
	Refusals []record.End `json:"refusals"`
}

// Ended is the answer to a request that ends sessions.
type Ended struct {
	Answer
	Ended []string `json:"ended"` // ids of sessions
}

// Changed is the answer to a request to drain or undrain a replica.
type Changed struct {
	Answer
	Changed Replica `json:"changed"` // that replica, afterwards
}

// Error is the body of every answer that is no success.
type Error struct {
	Error  string `json:"error"`  // what is wrong
	Remedy string `json:"remedy"` // what to do
}
