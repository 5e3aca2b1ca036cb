// Package inforce keeps the policy that is in force on this replica: it loads the files
// or the published rules, replaces the policy of the server, and remembers how the last
// loads ended.
package inforce

import (
	"log/slog"
	"reflect"
	"sync"

	"usher/cmd/usher/internal/follow"
	"usher/cmd/usher/internal/logging"
	"usher/cmd/usher/internal/policyfile"
	"usher/cmd/usher/internal/settings"
	"usher/limiter"
	"usher/proxy"
	"usher/proxy/admin"
	"usher/proxy/rules"
	"usher/store/published"
)

// Policy is the policy in force. It is safe for concurrent use from Serve on.
type Policy struct {
	cfg      settings.Config
	log      *slog.Logger
	follower *follow.Follower // nil unless the rules come from the store
	server   *proxy.Server
	history  history
	linter   linter
	serving  chan struct{} // closed by Serve
	loading  sync.Mutex    // held while the policy is replaced
}

// New returns a Policy without rules. f has them if they come from the store, and is nil
// otherwise.
func New(cfg settings.Config, f *follow.Follower) *Policy {
	return &Policy{cfg: cfg, follower: f, serving: make(chan struct{}), linter: linter{cfg: cfg}}
}

// First reads the rules that are to be in force at the start, with the findings about
// them.
func (p *Policy) First() (*proxy.Policy, []rules.Diagnostic, error) {
	if p.follower == nil {
		return policyfile.Load(p.cfg)
	}
	return LoadPublished(p.cfg, p.follower.InForce())
}

// Serve begins to replace the policy of server, which has first. From now on newer
// published rules are taken. It is called once.
func (p *Policy) Serve(server *proxy.Server, first *proxy.Policy, log *slog.Logger) {
	p.loading.Lock() // what is published may replace the policy at once
	defer p.loading.Unlock()
	p.server, p.log, p.linter.log = server, log, log
	p.history.use(first.Rules)
	if p.follower != nil {
		p.follower.Serve(following{p}, log)
	}
	close(p.serving)
	p.linter.start(first)
}

// Reload loads the rule, users and groups files into a new policy for new
// connections; with published rules the users and groups files, and the rules that
// could not be loaded without them. If a file has a mistake, the old policy stays in
// force. Listen addresses and log destinations change only at a restart.
func (p *Policy) Reload() {
	if p.follower != nil {
		if err := p.follower.Retry(); err != nil {
			p.reloadFailed(err)
		}
		return
	}
	policy, found, err := policyfile.Load(p.cfg)
	if err != nil {
		logging.Findings(p.log, found)
		p.reloadFailed(err)
		return
	}
	p.replace(policy, found, policyfile.Name(p.cfg.RuleFile))
}

func (p *Policy) reloadFailed(err error) {
	p.history.failed(err)
	p.log.Error("reload failed, keeping the old rules", "error", err.Error(), "digest", p.history.inForce().Digest())
}

// replace puts a policy in force. name says where its rules come from, and found are
// the findings about them.
func (p *Policy) replace(policy *proxy.Policy, found []rules.Diagnostic, name string) {
	p.loading.Lock()
	defer p.loading.Unlock()
	old := p.history.inForce()
	logging.Findings(p.log, found)
	for _, name := range fixedChanges(old.Settings, policy.Rules.Settings) {
		p.log.Warn("setting takes effect only at a restart", "setting", name)
	}
	p.server.SetPolicy(policy)
	p.history.use(policy.Rules)
	p.log.Info("reloaded", append(Describe(p.cfg, policy, name), "changed", policy.Rules.Digest() != old.Digest())...)
	p.linter.start(policy)
}

// CancelLint cancels the search for warnings that take long to find.
func (p *Policy) CancelLint() {
	p.loading.Lock()
	defer p.loading.Unlock()
	p.linter.cancel()
}

// Close returns when nothing runs in the background any more.
func (p *Policy) Close() {
	p.CancelLint()
	p.linter.running.Wait()
}

// Name names where the rules in force come from.
func (p *Policy) Name() string {
	if p.follower != nil {
		return published.Name(p.follower.InForce().Number)
	}
	return policyfile.Name(p.cfg.RuleFile)
}

// Show returns the rules in force, the limits of all generations with sessions, and the
// outcome of the last loads. st is the status of the limiter.
func (p *Policy) Show(st limiter.Status) admin.Rules {
	r := showRules(p.Name(), p.server.Generations(), st)
	p.history.show(&r)
	r.Published = ShowPublished(p.follower)
	return r
}

// Describe returns log attributes that sum up a policy whose rules come from name.
func Describe(cfg settings.Config, policy *proxy.Policy, name string) []any {
	attrs := []any{"file", name, "client_rules", len(policy.Rules.Client), "socks_rules", len(policy.Rules.Socks),
		"limited", len(policyfile.Limited(policy.Rules)), "digest", policy.Rules.Digest()}
	if cfg.UsersFile != "" {
		attrs = append(attrs, "users_file", cfg.UsersFile)
	}
	if cfg.GroupsFile != "" {
		attrs = append(attrs, "groups_file", cfg.GroupsFile)
	}
	if len(policy.Rules.Settings.Methods) == 0 { // the rule file does not set it
		method := "none"
		if cfg.UsersFile != "" {
			method = "username"
		}
		attrs = append(attrs, "socksmethod", method+" (assumed)")
	}
	return attrs
}

// fixedChanges names the settings that differ but take effect only at a restart.
func fixedChanges(old, now rules.Settings) (names []string) {
	addresses := func(list []rules.Endpoint) (out []rules.Endpoint) {
		for _, e := range list {
			e.Pos = rules.Pos{} // its position in the file does not matter
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
