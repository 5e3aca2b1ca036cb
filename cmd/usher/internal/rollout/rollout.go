// Package rollout compares rules with the published ones, and waits until all replicas
// use a published generation.
package rollout

import (
	"fmt"
	"slices"
	"strings"

	"github.com/rogpeppe/go-internal/diff"

	"usher/store/published"
)

// Side is a text of rules to compare.
type Side struct {
	Name  string // for the head of the diff
	Rules string // printed by package rules, or the original text if it has errors
}

// Diff returns the changes as a unified diff, or "" if there are none.
func Diff(old, next Side) string {
	return string(diff.Diff(old.Name, []byte(old.Rules), next.Name, []byte(next.Rules)))
}

// Standing says on which replicas a generation is in force.
type Standing struct {
	Number   uint64
	On       []published.Report // it is in force there
	Refusing []published.Report // they do not accept it
	Behind   []published.Report // not there yet
	Gone     []published.Report // as last seen: their leases have ended, and they may have old rules
	Silent   []string           // members of the cluster that do not follow
}

// Done reports whether the generation is in force on all replicas that follow.
func (s Standing) Done() bool { return s.settled() && len(s.Refusing)+len(s.Gone) == 0 }

// settled reports whether it makes no sense to wait longer.
func (s Standing) settled() bool { return len(s.Behind) == 0 }

// String returns the standing in one line.
func (s Standing) String() string {
	all := len(s.On) + len(s.Behind) + len(s.Refusing) + len(s.Gone)
	text := fmt.Sprintf("generation %d: in force on %d of %s", s.Number, len(s.On), Replicas(all))
	for _, part := range []struct {
		what    string
		reports []published.Report
	}{{"waiting for", s.Behind}, {"refused by", s.Refusing}, {"gone:", s.Gone}} {
		if len(part.reports) > 0 {
			text += ", " + part.what + " " + strings.Join(names(part.reports), ", ")
		}
	}
	return text
}

// Replicas says how many there are: 1 replica, 2 replicas.
func Replicas(n int) string {
	if n == 1 {
		return "1 replica"
	}
	return fmt.Sprintf("%d replicas", n)
}

func names(reports []published.Report) (list []string) {
	for _, r := range reports {
		list = append(list, r.Name)
	}
	slices.Sort(list)
	return list
}
