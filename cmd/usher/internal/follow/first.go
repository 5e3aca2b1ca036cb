package follow

import (
	"context"
	"time"

	"usher/store/published"
)

// First exchanges with the store, over connections of its own, until rules are in force
// or ctx ends. If the store has answered and no rules are in force, First uses the
// cache. It reports whether rules are in force, and calls waiting with the reason when
// it must wait.
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

// missing says why no rules are in force, and what to do.
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
