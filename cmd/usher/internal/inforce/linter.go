package inforce

import (
	"context"
	"log/slog"
	"sync"

	"usher/cmd/usher/internal/logging"
	"usher/cmd/usher/internal/policyfile"
	"usher/cmd/usher/internal/settings"
	"usher/proxy"
)

// linter logs the warnings about a policy that take long to find, while clients are
// served.
type linter struct {
	cfg     settings.Config
	log     *slog.Logger
	end     context.CancelFunc // of the last lint; nil: there was none
	turn    sync.Mutex         // held by the lint that runs
	running sync.WaitGroup
}

// start begins a lint, and cancels the one of the policy before. Calls of start and
// cancel must not overlap.
func (l *linter) start(policy *proxy.Policy) {
	l.cancel()
	ctx, cancel := context.WithCancel(context.Background())
	l.end = cancel
	l.running.Go(func() {
		l.turn.Lock()
		defer l.turn.Unlock()
		if ctx.Err() != nil {
			return
		}
		if found := policyfile.Lint(ctx, l.cfg, policy.Decide()); ctx.Err() == nil {
			logging.Findings(l.log, found)
		}
	})
}

// cancel cancels the last lint.
func (l *linter) cancel() {
	if l.end != nil {
		l.end()
	}
}
