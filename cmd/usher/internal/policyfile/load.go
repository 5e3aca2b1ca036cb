// Package policyfile loads the rule file, the users file and the groups file
// into a policy. It reports mistakes and doubts as findings with their places.
package policyfile

import (
	"errors"

	"usher/cmd/usher/internal/listen"
	"usher/cmd/usher/internal/settings"
	"usher/proxy"
	"usher/proxy/rules"
)

// Load builds a policy from the files that cfg names. The diagnostics are the
// errors and warnings about the rule file. If there is no policy, the error
// joins all mistakes in all files.
func Load(cfg settings.Config) (*proxy.Policy, []rules.Diagnostic, error) {
	known, accountsErr := LoadAccounts(cfg)
	set, found, err := read(cfg.RuleFile, known)
	if err != nil {
		return nil, nil, errors.Join(err, accountsErr)
	}
	if set == nil || accountsErr != nil {
		return nil, found, errors.Join(AsError(found), accountsErr)
	}
	p := &proxy.Policy{Rules: set, Users: known.Users, Groups: known.Groups}
	external, err := listen.Endpoints(set.Settings.External)
	if err != nil {
		return nil, found, err
	}
	for _, e := range external {
		p.External = append(p.External, e.Addr())
	}
	return p, found, nil
}
