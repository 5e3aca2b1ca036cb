package follow

import (
	"context"
	"time"

	"usher/store/published"
)

// First exchanges with the store, over connections of its own, until rules are in
// force or ctx ends. The cache is used when the store has answered and rules are
// still missing. First reports whether rules are in force, and else why not.
func (f *Follower) First(ctx context.Context, dial func(context.Context) (published.Conn, error), waiting func(why string)) bool {
	var conn published.Conn
	defer func() {
		if conn != nil {
			conn.Close()
		}
	}()
	for ctx.Err() == nil {
		var err error
		if conn == nil {
			conn, err = f.dial(ctx, dial)
		}
		if err == nil {
			err = f.exchange(ctx, conn)
		}
		if err != nil && conn != nil {
			conn.Close()
			conn = nil
		}
		if err == nil && f.InForce().Number == 0 {
			f.UseCache()
		}
		if f.InForce().Number != 0 {
			return true
		}
		waiting(f.missing(err))
		f.pause(ctx)
	}
	return f.InForce().Number != 0
}

func (f *Follower) dial(ctx context.Context, dial func(context.Context) (published.Conn, error)) (published.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, f.o.TTL/5)
	defer cancel()
	return dial(ctx)
}

func (f *Follower) exchange(ctx context.Context, conn published.Conn) error {
	bounded, cancel := context.WithTimeout(ctx, f.o.TTL/10)
	defer cancel()
	return f.follow(bounded, conn)
}

func (f *Follower) pause(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-time.After(f.o.TTL / 10):
	}
}

// missing says why there are no rules, and what to do.
func (f *Follower) missing(err error) string {
	st := f.State()
	switch {
	case err != nil:
		return "no rules yet: the store cannot be asked for them: " + err.Error()
	case st.Trouble != "":
		return "no rules yet: " + st.Trouble
	case st.Reason != "":
		return "no rules yet: the published ones are refused: " + st.Reason
	case st.Newest == 0:
		return "no rules yet: nothing is published for the cluster " + f.o.Cluster + "; publish rules with usher apply FILE"
	}
	return "no rules yet: they are being loaded"
}
