package serve

import (
	"context"
	"reflect"

	"github.com/coreos/go-systemd/v22/daemon"

	"usher/cmd/usher/internal/logging"
	"usher/cmd/usher/internal/policyfile"
	"usher/proxy"
	"usher/proxy/rules"
)

// reload loads the rule, users and groups files into a new policy for new
// connections; with published rules the users and groups files, and the rules that
// could not be loaded without them. If a file has a mistake, the old policy stays in force. Log files
// are reopened. Listen addresses and log destinations change only at a restart.
func (s *service) reload() {
	s.notify.reloading()
	defer s.notify.tell(daemon.SdNotifyReady)
	s.log.Reopen()
	if s.follower != nil {
		if err := s.follower.Retry(); err != nil {
			s.reloadFailed(err)
		}
		return
	}
	policy, found, err := policyfile.Load(s.cfg)
	if err != nil {
		logging.Findings(s.log.Logger, found)
		s.reloadFailed(err)
		return
	}
	s.replace(policy, found, policyfile.Name(s.cfg.RuleFile))
}

func (s *service) reloadFailed(err error) {
	s.history.failed(err)
	s.log.Error("reload failed, keeping the old rules", "error", err.Error(), "digest", s.history.inForce().Digest())
}

// replace puts a policy in force. name says where its rules come from, and found are
// the findings about them.
func (s *service) replace(policy *proxy.Policy, found []rules.Diagnostic, name string) {
	s.loading.Lock()
	defer s.loading.Unlock()
	old := s.history.inForce()
	logging.Findings(s.log.Logger, found)
	for _, name := range fixedChanges(old.Settings, policy.Rules.Settings) {
		s.log.Warn("setting takes effect only at a restart", "setting", name)
	}
	s.proxy.SetPolicy(policy)
	s.history.use(policy.Rules)
	s.log.Info("reloaded", append(s.describe(policy, name), "changed", policy.Rules.Digest() != old.Digest())...)
	s.startLint(policy)
}

// startLint logs the warnings about a policy that take long to find, while
// clients are served. It cancels the lint of the policy before.
func (s *service) startLint(policy *proxy.Policy) {
	s.cancelLint()
	ctx, cancel := context.WithCancel(context.Background())
	s.cancelLint = cancel
	s.serving.Go(func() {
		s.lintMu.Lock() // one at a time
		defer s.lintMu.Unlock()
		if ctx.Err() != nil {
			return
		}
		if found := policyfile.Lint(ctx, s.cfg, policy.Decide()); ctx.Err() == nil {
			logging.Findings(s.log.Logger, found)
		}
	})
}

// endLint cancels the last lint.
func (s *service) endLint() {
	s.loading.Lock()
	defer s.loading.Unlock()
	s.cancelLint()
}

// fixedChanges names the settings that differ but take effect only at a restart.
func fixedChanges(old, now rules.Settings) (names []string) {
	addresses := func(list []rules.Endpoint) (out []rules.Endpoint) {
		for _, e := range list {
			e.Pos = rules.Pos{} // its place in the file does not matter
			out = append(out, e)
		}
		return out
	}
	if !reflect.DeepEqual(addresses(old.Internal), addresses(now.Internal)) {
		names = append(names, "internal")
	}
	if !reflect.DeepEqual(old.LogOutput, now.LogOutput) {
		names = append(names, "logoutput")
	}
	if !reflect.DeepEqual(old.ErrorLog, now.ErrorLog) {
		names = append(names, "errorlog")
	}
	return names
}
