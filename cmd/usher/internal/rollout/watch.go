package rollout

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"usher/store/published"
)

// Watch follows a generation that was published.
type Watch struct {
	Number   uint64
	TTL      time.Duration                                 // of a lease
	Dial     func(context.Context) (published.Conn, error) // makes a new connection to the store
	Progress func(Standing)                                // is called when the standing changes
}

// SupersededError says that a newer generation was published meanwhile.
type SupersededError struct{ Newest uint64 }

func (e SupersededError) Error() string {
	return fmt.Sprintf("generation %d was published meanwhile", e.Newest)
}

// pause is the time between two questions of Wait.
const pause = 50 * time.Millisecond

// Wait waits until every replica that follows has taken or refused the generation, is
// gone, or has stopped normally, or until ctx ends. seen are the replicas from before the
// generation was published. Wait closes conn, and the connections that it makes. It fails
// with SupersededError, or if it could never read the standing.
func (w Watch) Wait(ctx context.Context, conn published.Conn, seen []published.Report) (s Standing, err error) {
	shown, roll := "", newRoll(w.Number, w.TTL, seen)
	defer func() {
		if conn != nil {
			conn.Close()
		}
	}()
	for {
		var now Standing
		now, err = w.look(ctx, conn, roll)
		switch {
		case err == nil:
			s = now
			if text := s.String(); text != shown {
				shown = text
				w.Progress(s)
			}
			if s.settled() {
				return s, nil
			}
		case errors.As(err, &SupersededError{}):
			return s, err
		case conn != nil:
			conn.Close()
			conn = nil
		}
		select {
		case <-ctx.Done():
			return s, outOfTime(s, err)
		case <-time.After(pause):
		}
		if conn == nil {
			if conn, err = w.Dial(ctx); err != nil {
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

func (w Watch) look(ctx context.Context, conn published.Conn, roll *roll) (Standing, error) {
	if conn == nil {
		return Standing{}, errors.New("no connection to the store")
	}
	list, err := conn.Generations(ctx)
	if err != nil {
		return Standing{}, err
	}
	if len(list) > 0 && list[0].Number > w.Number {
		return Standing{}, SupersededError{list[0].Number}
	}
	all, err := conn.Replicas(ctx)
	if err != nil {
		return Standing{}, err
	}
	return roll.call(all, time.Now()), nil
}

// roll remembers each replica that was seen, until it has stopped normally. A replica
// whose report has vanished may be dead, or may run without the store.
type roll struct {
	number uint64
	grace  time.Duration
	seen   map[string]seen
}

type seen struct {
	report published.Report
	last   time.Time // when its report was there
}

// newRoll returns a roll with the replicas of before. A report vanishes
// when its replica has reported nothing for one TTL, but also when the store loses its
// data. Replicas report again within a tenth of the TTL then, so a replica counts as
// gone only after half a TTL without a report.
func newRoll(number uint64, ttl time.Duration, before []published.Report) *roll {
	r := &roll{number: number, grace: ttl / 2, seen: map[string]seen{}}
	for _, one := range before {
		r.seen[one.Replica] = seen{one, time.Now()}
	}
	return r
}

// call returns the standing according to the store now.
func (r *roll) call(all published.Replicas, now time.Time) Standing {
	for _, one := range all.Reports {
		r.seen[one.Replica] = seen{one, now}
	}
	for _, id := range all.Left {
		delete(r.seen, id)
	}
	s := Standing{Number: r.number}
	for _, one := range r.seen {
		report := one.report
		switch missing := now.Sub(one.last); {
		case report.Number == r.number:
			if missing == 0 {
				s.On = append(s.On, report)
			}
		case missing > r.grace:
			s.Gone = append(s.Gone, report)
		case missing > 0:
			s.Behind = append(s.Behind, report)
		case report.Refused == r.number:
			s.Refusing = append(s.Refusing, report)
		default:
			s.Behind = append(s.Behind, report)
		}
	}
	for _, id := range all.Silent {
		if _, follows := r.seen[id]; !follows {
			s.Silent = append(s.Silent, id)
		}
	}
	for _, list := range [][]published.Report{s.On, s.Refusing, s.Behind, s.Gone} {
		slices.SortFunc(list, published.ByName)
	}
	return s
}
