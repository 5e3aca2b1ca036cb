package serve

import (
	"os"
	"runtime"

	"usher/cmd/usher/internal/build"
	"usher/cmd/usher/internal/inforce"
	"usher/cmd/usher/internal/logging"
	"usher/cmd/usher/internal/settings"
	"usher/proxy"
	"usher/proxy/rules"
	"usher/store/redisstore"
)

// announce writes the first lines of the log: what this process does, and which
// setting changes that.
func (s *service) announce(policy *proxy.Policy, found []rules.Diagnostic, source string) {
	capacity := s.cfg.Capacity()
	s.log.Info("usher starts", "version", build.This().Version, "process", os.Getpid(), "commit", build.This().Commit, "go", runtime.Version(),
		"descriptors", capacity.Descriptors, "memory_mib", capacity.Memory>>20, "max_sessions", capacity.Sessions, "max_negotiating", capacity.Negotiating,
		"stalled_session_kib", capacity.Stalled>>10, "max_buffered_mib", capacity.Buffered>>20)
	if needed := capacity.Needed(); needed > capacity.Descriptors {
		s.log.Warn("USHER_MAX_SESSIONS needs more descriptors than the process may open",
			"needed", needed, "descriptors", capacity.Descriptors, "remedy", "raise the limit of open files, or lower USHER_MAX_SESSIONS")
	}
	logging.Findings(s.log.Logger, found)
	if s.cfg.RuleFile == "" {
		s.log.Info("no rule file, using built-in rules", "effect", "clients on loopback addresses may connect anywhere, other clients may not connect",
			"to_change", "set USHER_CONFIG to a rule file")
	}
	if s.cfg.Published() && s.cfg.RuleKey == "" {
		s.log.Info("rules come from the store and need no signature", "effect", "anybody who can write to Redis can replace them",
			"to_change", "set USHER_CONFIG_KEY on all replicas, and publish with usher apply --key")
	}
	s.log.Info("rules loaded", inforce.Describe(s.cfg, policy, s.policy.Name())...)
	if s.cfg.Store == settings.Memory {
		s.log.Info("counting sessions in memory", "effect", "limits hold for this process only",
			"to_change", "set USHER_STORE=redis://host:port/0 on all replicas")
	} else {
		s.log.Info("counting sessions in a shared store", "effect", "limits hold across all replicas of the cluster", "store", s.cfg.Store.String(), "cluster", string(s.cfg.Cluster), "lease_ttl", s.cfg.LeaseTTL.String(), "lease_loss", s.cfg.LeaseLoss)
	}
	if st, ok := s.counting.Store.(*redisstore.Store); ok {
		for _, w := range st.Warnings() {
			s.log.Warn("the connection to the store is insecure", "finding", w)
		}
	}
	if internal := policy.Rules.Settings.Internal; s.cfg.ListenSet && len(internal) > 0 {
		s.log.Warn("USHER_LISTEN overrides internal: in the rule file", "internal", internal[0].Pos.String())
	}
	for _, ln := range s.socks {
		s.log.Info("listening for SOCKS clients", "address", ln.Addr().String(), "decided_by", source,
			"to_change", "set USHER_LISTEN, or internal: in the rule file")
	}
}
