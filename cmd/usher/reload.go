package main

import (
	"reflect"

	"usher/proxy/rules"
)

// reload loads the rule file, the users file and the groups file as a complete
// new policy and puts it in force for new connections. Any mistake in them keeps the old one.
// Listening addresses and log destinations stay as they are until a restart;
// log files are opened anew.
func (s *service) reload() {
	s.log.Reopen()
	old := s.history.inForce()
	policy, found, err := loadPolicy(s.cfg)
	logDiagnostics(s.log.Logger, found)
	if err != nil {
		s.history.failed(err)
		s.log.Error("reload failed, the old rules serve on", "error", err.Error(), "digest", old.Digest())
		return
	}
	for _, name := range fixedChanges(old.Settings, policy.Rules.Settings) {
		s.log.Warn("changed in the rule file, but takes effect at a restart only", "setting", name)
	}
	s.proxy.SetPolicy(policy)
	s.history.use(policy.Rules)
	s.log.Info("reloaded", append(describe(policy, s.cfg), "changed", policy.Rules.Digest() != old.Digest())...)
	s.lookOver(policy)
}

// fixedChanges names the settings that differ and that a reload does not touch.
func fixedChanges(old, now rules.Settings) (names []string) {
	addresses := func(list []rules.Endpoint) (out []rules.Endpoint) {
		for _, e := range list {
			e.Pos = rules.Pos{} // where it stands does not matter
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
