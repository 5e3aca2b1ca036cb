// Package rollout compares rules with the published ones, and waits until all replicas
// use a published generation.
package rollout

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

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
	Silent   []string           // members of the cluster that do not follow
}

// Assess returns the standing of a generation.
func Assess(number uint64, all published.Replicas) Standing {
	s := Standing{Number: number, Silent: all.Silent}
	for _, r := range all.Reports {
		switch {
		case r.Number == number:
			s.On = append(s.On, r)
		case r.Refused == number:
			s.Refusing = append(s.Refusing, r)
		default:
			s.Behind = append(s.Behind, r)
		}
	}
	return s
}

// Done reports whether the generation is in force on all replicas that follow.
func (s Standing) Done() bool { return len(s.Behind)+len(s.Refusing) == 0 }

// String returns the standing in one line.
func (s Standing) String() string {
	all := len(s.On) + len(s.Behind) + len(s.Refusing)
	text := fmt.Sprintf("generation %d: in force on %d of %d replicas", s.Number, len(s.On), all)
	if len(s.Behind) > 0 {
		text += ", waiting for " + strings.Join(names(s.Behind), ", ")
	}
	if len(s.Refusing) > 0 {
		text += ", refused by " + strings.Join(names(s.Refusing), ", ")
	}
	return text
}

func names(reports []published.Report) (list []string) {
	for _, r := range reports {
		list = append(list, r.Name)
	}
	slices.Sort(list)
	return list
}

// SupersededError says that a newer generation was published meanwhile.
type SupersededError struct{ Newest uint64 }

func (e SupersededError) Error() string {
	return fmt.Sprintf("generation %d was published meanwhile", e.Newest)
}

// pause is the time between two questions of Wait.
const pause = 50 * time.Millisecond

// Wait waits until every replica that follows has taken or refused a generation, or
// until ctx ends. It calls progress when the standing changes, and dial when it needs
// a new connection. It closes the connections. It fails if it could never read the
// standing, or with SupersededError.
func Wait(ctx context.Context, number uint64, conn published.Conn, dial func(context.Context) (published.Conn, error), progress func(Standing)) (s Standing, err error) {
	shown := ""
	defer func() {
		if conn != nil {
			conn.Close()
		}
	}()
	for {
		var now Standing
		now, err = look(ctx, number, conn)
		if err == nil {
			s = now
			if text := s.String(); text != shown {
				shown = text
				progress(s)
			}
			if len(s.Behind) == 0 {
				return s, nil
			}
		} else if superseded, ok := err.(SupersededError); ok { //nolint:errorlint // look returns it as it is
			return s, superseded
		} else if conn != nil {
			conn.Close()
			conn = nil
		}
		select {
		case <-ctx.Done():
			return s, outOfTime(s, err)
		case <-time.After(pause):
		}
		if conn == nil {
			if conn, err = dial(ctx); err != nil {
				conn = nil
			}
		}
	}
}

// outOfTime returns err if no look has succeeded, and nil otherwise.
func outOfTime(s Standing, err error) error {
	if s.Number != 0 {
		return nil
	}
	return err
}

func look(ctx context.Context, number uint64, conn published.Conn) (Standing, error) {
	if conn == nil {
		return Standing{}, fmt.Errorf("no connection to the store")
	}
	list, err := conn.Generations(ctx)
	if err != nil {
		return Standing{}, err
	}
	if len(list) > 0 && list[0].Number > number {
		return Standing{}, SupersededError{list[0].Number}
	}
	all, err := conn.Replicas(ctx)
	if err != nil {
		return Standing{}, err
	}
	return Assess(number, all), nil
}
