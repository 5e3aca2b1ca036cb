package main

import (
	"context"
	"reflect"

	"usher/cmd/usher/internal/logging"
	"usher/cmd/usher/internal/policyfile"
	"usher/proxy"
	"usher/proxy/rules"
)

// reload loads the rule, users and groups files into a new policy for new
// connections. If a file has a mistake, the old policy stays in force. Log files
// are reopened. Listen addresses and log destinations change only at a restart.
func (s *service) reload() {
	s.log.Reopen()
	old := s.history.inForce()
	policy, found, err := policyfile.Load(s.cfg)
	logging.Findings(s.log.Logger, found)
	if err != nil {
		s.history.failed(err)
		s.log.Error("reload failed, keeping the old rules", "error", err.Error(), "digest", old.Digest())
		return
	}
	for _, name := range fixedChanges(old.Settings, policy.Rules.Settings) {
		s.log.Warn("setting takes effect only at a restart", "setting", name)
	}
	s.proxy.SetPolicy(policy)
	s.history.use(policy.Rules)
	s.log.Info("reloaded", append(describe(policy, s.cfg), "changed", policy.Rules.Digest() != old.Digest())...)
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
