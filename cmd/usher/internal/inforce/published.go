package inforce

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"usher/cmd/usher/internal/follow"
	"usher/cmd/usher/internal/listen"
	"usher/cmd/usher/internal/policyfile"
	"usher/cmd/usher/internal/settings"
	"usher/proxy"
	"usher/proxy/admin"
	"usher/proxy/rules"
	"usher/store"
	"usher/store/published"
	"usher/store/redisstore"
)

// How a replica follows the rules that are published for its cluster
// (USHER_CONFIG=store).

// LoadPublished makes a policy of published rules, with the findings about them.
func LoadPublished(cfg settings.Config, t published.Text) (*proxy.Policy, []rules.Diagnostic, error) {
	policy, found, err := policyfile.LoadText(cfg, published.Name(t.Number), t.Rules)
	if err != nil {
		return nil, found, err
	}
	// Changed listeners take effect only at a restart, which must not fail then.
	if err := policyfile.AsError(listen.Check(cfg, policy.Rules.Settings)); err != nil {
		return nil, found, err
	}
	policy.Number = t.Number
	return policy, found, nil
}

// Exchanges returns the id of this replica, and a function that takes newer rules from
// the store, for ID and Exchange of limiter.Options. They are zero if the rules come
// from a file.
func (p *Policy) Exchanges() (id string, exchange func(context.Context, store.Conn) error) {
	if p.follower == nil {
		return "", nil
	}
	return p.follower.Replica(), p.exchange
}

func (p *Policy) exchange(ctx context.Context, c store.Conn) error {
	select {
	case <-p.serving: // the first exchange may come before
	case <-ctx.Done():
		return ctx.Err()
	}
	return p.follower.Exchange(ctx, c)
}

// following implements follow.Target for a Policy.
type following struct{ *Policy }

var _ follow.Target = following{}

// Load implements follow.Target.
func (f following) Load(t published.Text) error {
	policy, found, err := LoadPublished(f.cfg, t)
	if err != nil {
		return err
	}
	f.replace(policy, found, published.Name(t.Number))
	return nil
}

// Refused implements follow.Target.
func (f following) Refused(number uint64, err error) {
	f.history.failed(fmt.Errorf("%s: %w", published.Name(number), err))
}

// Hold implements follow.Target.
func (f following) Hold() (release func()) { return f.server.Hold() }

// Sessions implements follow.Target.
func (f following) Sessions() map[uint64]int {
	sums := map[uint64]int{}
	for _, g := range f.server.Generations() {
		if g.Sessions > 0 {
			sums[g.Number] += g.Sessions
		}
	}
	return sums
}

// ShowPublished returns which published rules this replica has. It returns nil without
// USHER_CONFIG=store.
func ShowPublished(f *follow.Follower) *admin.Published {
	if f == nil {
		return nil
	}
	st := f.State()
	return &admin.Published{
		Number: st.Number, Newest: st.Newest, Refused: st.Refused, Reason: st.Reason, Trouble: st.Trouble, Silent: st.Silent,
	}
}

// LeavePublished makes the store forget the report of this replica. Without it,
// usher apply would wait for a replica that has ended, for one TTL.
func (p *Policy) LeavePublished(ctx context.Context, st store.Store) {
	shared, ok := st.(*redisstore.Store)
	if p.follower == nil || !ok {
		return
	}
	p.follower.Wait()
	conn, err := shared.Published(ctx)
	if err == nil {
		err = errors.Join(p.follower.Leave(ctx, conn), conn.Close())
	}
	if err != nil {
		p.log.Debug("cannot take back the report to the store", "error", err.Error())
	}
}

// WarnOfMix warns a replica with a rule file of its own if rules are published for
// its cluster. It asks until the store has answered or ctx ends.
func (p *Policy) WarnOfMix(ctx context.Context, st store.Store, log *slog.Logger) {
	shared, ok := st.(*redisstore.Store)
	for ok && p.follower == nil && ctx.Err() == nil {
		list, err := publishedGenerations(ctx, shared, p.cfg.LeaseTTL)
		switch {
		case err == nil && len(list) > 0:
			log.Warn("rules are published for this cluster, and this replica has a rule file of its own",
				"published", list[0].Number, "digest", list[0].Digest, "remedy", "set USHER_CONFIG=store on all replicas")
			return
		case err == nil:
			return
		}
		log.Debug("cannot ask yet whether rules are published", "error", err.Error())
		select {
		case <-ctx.Done():
		case <-time.After(checkPublishedPause):
		}
	}
}

const checkPublishedPause = 5 * time.Second

func publishedGenerations(ctx context.Context, st *redisstore.Store, ttl time.Duration) ([]published.Kept, error) {
	ctx, cancel := context.WithTimeout(ctx, ttl)
	defer cancel()
	conn, err := st.Published(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return conn.Generations(ctx)
}
