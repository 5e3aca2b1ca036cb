package serve

import (
	"context"
	"errors"
	"fmt"
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

// How a service follows the rules that are published for its cluster
// (USHER_CONFIG=store).

// ruleName names where the rules in force come from.
func (s *service) ruleName() string {
	if s.follower != nil {
		return published.Name(s.follower.InForce().Number)
	}
	return policyfile.Name(s.cfg.RuleFile)
}

// loadPolicy reads the rules that are to be in force at the start.
func (s *service) loadPolicy() (*proxy.Policy, []rules.Diagnostic, error) {
	if s.follower == nil {
		return policyfile.Load(s.cfg)
	}
	return loadPublished(s.cfg, s.follower.InForce())
}

func loadPublished(cfg settings.Config, t published.Text) (*proxy.Policy, []rules.Diagnostic, error) {
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

// exchange is limiter.Options.Exchange.
func (s *service) exchange(ctx context.Context, c store.Conn) error {
	select {
	case <-s.assembled: // the first exchange may come before
	case <-ctx.Done():
		return ctx.Err()
	}
	return s.follower.Exchange(ctx, c)
}

// following makes the service what follows.
type following struct{ *service }

var _ follow.Target = following{}

// Load implements follow.Target.
func (f following) Load(t published.Text) error {
	policy, found, err := loadPublished(f.cfg, t)
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
func (f following) Hold() (release func()) { return f.proxy.Hold() }

// Sessions implements follow.Target.
func (f following) Sessions() map[uint64]int {
	sums := map[uint64]int{}
	for _, g := range f.proxy.Generations() {
		if g.Sessions > 0 {
			sums[g.Number] += g.Sessions
		}
	}
	return sums
}

// showPublished returns how this replica stands with what is published; nil without
// USHER_CONFIG=store.
func showPublished(f *follow.Follower) *admin.Published {
	if f == nil {
		return nil
	}
	st := f.State()
	return &admin.Published{
		Number: st.Number, Newest: st.Newest, Refused: st.Refused, Reason: st.Reason, Trouble: st.Trouble, Silent: st.Silent,
	}
}

// leavePublished makes the store forget the report of this replica. Without it,
// usher apply would wait for a replica that has ended, for one TTL.
func (s *service) leavePublished(ctx context.Context) {
	st, ok := s.store.(*redisstore.Store)
	if s.follower == nil || !ok {
		return
	}
	s.follower.Wait()
	conn, err := st.Published(ctx)
	if err == nil {
		err = errors.Join(s.follower.Leave(ctx, conn), conn.Close())
	}
	if err != nil {
		s.log.Debug("cannot take back the report to the store", "error", err.Error())
	}
}

// warnOfMix warns a replica with a rule file of its own if rules are published for
// its cluster. It asks until the store has answered or ctx ends.
func (s *service) warnOfMix(ctx context.Context) {
	st, ok := s.store.(*redisstore.Store)
	for ok && s.follower == nil && ctx.Err() == nil {
		list, err := publishedGenerations(ctx, st, s.cfg.LeaseTTL)
		switch {
		case err == nil && len(list) > 0:
			s.log.Warn("rules are published for this cluster, and this replica has a rule file of its own",
				"published", list[0].Number, "digest", list[0].Digest, "remedy", "set USHER_CONFIG=store on all replicas")
			return
		case err == nil:
			return
		}
		s.log.Debug("cannot ask yet whether rules are published", "error", err.Error())
		select {
		case <-ctx.Done():
		case <-time.After(checkPublishedPause):
		}
	}
}

const checkPublishedPause = 5 * time.Second

func publishedGenerations(ctx context.Context, st *redisstore.Store, ttl time.Duration) ([]published.Generation, error) {
	ctx, cancel := context.WithTimeout(ctx, ttl)
	defer cancel()
	conn, err := st.Published(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return conn.Generations(ctx)
}
