// Package record defines what is told about sessions: in the log, the accounting file,
// the API and the status page. The JSON keys are the same everywhere, and are a promise.
package record

import (
	"net/netip"
	"time"
)

// Session is what is known about a session. Fields that do not apply are zero, and their
// keys are left out. Rules are named as in the log.
type Session struct {
	ID         string         `json:"session"`
	Replica    string         `json:"replica,omitempty"` // USHER_REPLICA
	Generation string         `json:"generation,omitempty"`
	Client     netip.AddrPort `json:"client,omitzero"`
	User       string         `json:"user,omitempty"` // as claimed, until the password is checked

	ClientRule     string `json:"client_rule,omitempty"` // c1
	ClientRuleName string `json:"client_rule_name,omitempty"`
	ClientRuleAt   string `json:"client_rule_at,omitempty"` // file:line
	Rule           string `json:"rule,omitempty"`           // s1
	RuleName       string `json:"rule_name,omitempty"`
	RuleAt         string `json:"rule_at,omitempty"`
	Pool           string `json:"pool,omitempty"`
	LimitKey       string `json:"limit_key,omitempty"`
	// WouldRefuse names the limits that would have refused the session, if they were not
	// in session.mode report: each after its rule, as in "s1 session.max: 10".
	WouldRefuse string `json:"would_refuse,omitempty"`

	SOCKS     int            `json:"socks,omitempty"` // 4 or 5
	Command   string         `json:"command,omitempty"`
	Target    string         `json:"target,omitempty"` // as requested
	Dialled   netip.AddrPort `json:"dialled,omitzero"`
	Bound     netip.AddrPort `json:"bound,omitzero"`
	Peer      netip.AddrPort `json:"peer,omitzero"`
	Confirmed *bool          `json:"confirmed,omitempty"` // false: admitted without the store

	Began     time.Time `json:"began"`
	Seconds   float64   `json:"seconds"` // since then: so far, or until the end
	BytesUp   int64     `json:"bytes_up"`
	BytesDown int64     `json:"bytes_down"`
}

// States of a running session.
const (
	Negotiating = "negotiating" // before its request
	Opening     = "opening"     // admitted, and not connected yet
	Relaying    = "relaying"    // TCP is relayed
	Associated  = "associated"  // UDP is relayed
)

// States returns every state.
func States() []string { return []string{Negotiating, Opening, Relaying, Associated} }

// Running is a session that has not ended.
type Running struct {
	Session
	State       string  `json:"state"`
	IdleSeconds float64 `json:"idle_seconds"` // since a byte was relayed, or since it began
}

// Holder is a client and user with sessions.
type Holder struct {
	Client   netip.Addr `json:"client"`
	User     string     `json:"user,omitempty"`
	Sessions int        `json:"sessions"`
}

// Held is what a full limit held when it refused a session.
type Held struct {
	Limit    string   `json:"limit"` // the keyword: session.max, session.keymax ...
	Max      int64    `json:"max"`
	Sessions int64    `json:"sessions"`          // over all replicas
	Here     int      `json:"here"`              // of them on this replica; -1: nobody has counted them
	Holders  []Holder `json:"holders,omitempty"` // who holds most of those here; at most five
}

// RefusalsKept is how many of its last refusals a replica remembers.
const RefusalsKept = 1000

// End is the end of a session, or its refusal.
type End struct {
	Session
	Time   time.Time `json:"time"`
	Reason string    `json:"reason"`
	// Refused: the client was never told that it is connected.
	Refused bool   `json:"refused"`
	Error   string `json:"error,omitempty"`
	// FailedAddresses are addresses of the target that were tried in vain, each with the
	// reason, if there are several.
	FailedAddresses string `json:"failed_addresses,omitempty"`
	Held            *Held  `json:"held,omitempty"` // if a limit has refused it
	*UDP                   // if it was an association
}

// UDP is what an association has relayed.
type UDP struct {
	UDPRelay       netip.AddrPort   `json:"udp_relay,omitzero"`  // where the client was to send its datagrams
	UDPClient      netip.AddrPort   `json:"udp_client,omitzero"` // from where they came
	UDPClientMoves int64            `json:"udp_client_moves,omitempty"`
	DatagramsUp    int64            `json:"datagrams_up"`
	DatagramsDown  int64            `json:"datagrams_down"`
	Dropped        map[string]int64 `json:"dropped,omitempty"` // datagrams by reason
}
