// Package policyfile loads the rule file, the users file and the groups file
// into a policy. It reports mistakes and doubts as findings with their places.
package policyfile

import (
	"errors"
	"fmt"

	"usher/cmd/usher/internal/listen"
	"usher/cmd/usher/internal/settings"
	"usher/proxy"
	"usher/proxy/rules"
	"usher/proxy/users"
)

// Load builds a policy from the files that cfg names. The diagnostics are the
// errors and warnings about the rule file. If there is no policy, the error
// joins all mistakes in all files.
func Load(cfg settings.Config) (*proxy.Policy, []rules.Diagnostic, error) {
	known, accountsErr := loadAccounts(cfg)
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

// Accounts says how clients can log in, and which groups they are in.
type Accounts struct {
	UsersFile, GroupsFile bool           // the environment names one
	Users                 *users.Checker // nil: none was read
	Groups                *users.Groups  // nil: none was read
}

// loadAccounts reads the users and groups files that cfg names. The error joins
// all mistakes in them.
func loadAccounts(cfg settings.Config) (known Accounts, err error) {
	var errs []error
	if known.UsersFile = cfg.UsersFile != ""; known.UsersFile {
		if known.Users, err = users.Load(cfg.UsersFile); err != nil {
			errs = append(errs, fmt.Errorf("USHER_USERS_FILE: %w", err))
		}
	}
	if known.GroupsFile = cfg.GroupsFile != ""; known.GroupsFile {
		if known.Groups, err = users.LoadGroups(cfg.GroupsFile); err != nil {
			errs = append(errs, fmt.Errorf("USHER_GROUPS_FILE: %w", err))
		}
	}
	return known, errors.Join(errs...)
}
