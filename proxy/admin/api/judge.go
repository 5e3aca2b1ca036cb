package api

import (
	"fmt"
	"time"
)

// The health of a cluster.
const (
	OK       = "ok"
	Degraded = "degraded" // something is wrong, and some replica takes new sessions
	Down     = "down"     // no replica that answers takes new sessions
)

// Judge sets Health, Reasons and Sessions by the other fields.
func (c *Cluster) Judge() {
	c.Reasons, c.Sessions = []string{}, 0
	because := func(format string, args ...any) { c.Reasons = append(c.Reasons, fmt.Sprintf(format, args...)) }
	switch s := c.Store; {
	case s.Mismatch != "":
		because("other replicas have conflicting lease settings: %s", s.Mismatch)
	case s.Failure != "":
		because("the store has failed since %s; until it answers, %s: %s", s.FailingSince.UTC().Format(time.RFC3339), s.meanwhile(), s.Failure)
	case !s.Joined:
		because("the store is not joined")
	case s.Recovering:
		because("the store is recovering; until it has, %s", s.meanwhile())
	}
	ready := false
	for _, r := range c.Replicas {
		c.Sessions += r.Sessions
		ready = ready || r.Ready
		switch {
		case r.State == Dead || r.State == Silent:
			because("replica %s is %s%s", r.title(), r.State, after(": ", r.Error))
		case !r.Ready:
			because("replica %s is not ready: %s", r.title(), r.Reason)
		}
		if r.ReloadError != "" {
			because("replica %s keeps its old rules: %s", r.title(), r.ReloadError)
		}
	}
	switch {
	case !ready:
		c.Health = Down
	case len(c.Reasons) > 0:
		c.Health = Degraded
	default:
		c.Health = OK
	}
}

// meanwhile says whom limited rules admit as long as the store confirms nobody.
func (s Store) meanwhile() string {
	if s.AdmitLocally {
		return "rules that enforce limits admit by each replica's own count"
	}
	return "rules that enforce limits admit nobody"
}

// title names a replica for people.
func (r *Replica) title() string {
	if r.Name != "" {
		return r.Name
	}
	return r.ID
}

func after(separator, text string) string {
	if text == "" {
		return ""
	}
	return separator + text
}
