// Package policyfile loads the rule file, the users file and the groups file into a
// policy. It reports what is wrong or doubtful as findings with their positions.
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
	if cfg.Published() {
		return nil, nil, errors.New("the rules are in the store; to read them from a file, set USHER_CONFIG to its name (usher generations --text prints those in force)")
	}
	known, accountsErr := LoadAccounts(cfg)
	set, found, err := read(cfg.RuleFile, known)
	if err != nil {
		return nil, nil, errors.Join(err, accountsErr)
	}
	return policy(set, found, known, accountsErr)
}

// LoadText is Load for a text of rules that is in no file. name stands for the file
// in findings.
func LoadText(cfg settings.Config, name, text string) (*proxy.Policy, []rules.Diagnostic, error) {
	known, accountsErr := LoadAccounts(cfg)
	set, found := Parse(name, []byte(text), known)
	return policy(set, found, known, accountsErr)
}

func policy(set *rules.Set, found []rules.Diagnostic, known Accounts, accountsErr error) (*proxy.Policy, []rules.Diagnostic, error) {
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
