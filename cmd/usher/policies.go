package main

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"usher/limiter"
	"usher/proxy"
	"usher/proxy/admin"
	"usher/proxy/rules"
	"usher/proxy/users"
)

// loadPolicy builds a complete policy from the rule file, the users file and
// the groups file, or says all that is wrong with them. The diagnostics are the
// findings about the rule file, warnings and errors.
func loadPolicy(cfg config) (*proxy.Policy, []rules.Diagnostic, error) {
	known, accountsErr := loadAccounts(cfg)
	set, found, err := readRules(cfg.Config, known)
	if err != nil {
		return nil, nil, errors.Join(err, accountsErr)
	}
	if set == nil || accountsErr != nil {
		return nil, found, errors.Join(asError(found), accountsErr)
	}
	p := &proxy.Policy{Rules: set, Users: known.users, Groups: known.groups}
	external, err := endpoints(set.Settings.External)
	if err != nil {
		return nil, found, err
	}
	for _, e := range external {
		p.External = append(p.External, e.Addr())
	}
	return p, found, nil
}

// accounts is how clients can prove their names, and who is in which group.
type accounts struct {
	usersFile, groupsFile bool           // the environment names one
	users                 *users.Checker // nil: none was read
	groups                *users.Groups  // nil: none was read
}

// loadAccounts reads the files that the environment names, or says all that
// is wrong with them.
func loadAccounts(cfg config) (known accounts, err error) {
	var errs []error
	if known.usersFile = cfg.UsersFile != ""; known.usersFile {
		if known.users, err = users.Load(cfg.UsersFile); err != nil {
			errs = append(errs, fmt.Errorf("USHER_USERS_FILE: %w", err))
		}
	}
	if known.groupsFile = cfg.GroupsFile != ""; known.groupsFile {
		if known.groups, err = users.LoadGroups(cfg.GroupsFile); err != nil {
			errs = append(errs, fmt.Errorf("USHER_GROUPS_FILE: %w", err))
		}
	}
	return known, errors.Join(errs...)
}

// history is how loading policies went. It is safe for concurrent use.
type history struct {
	mu      sync.Mutex
	current *rules.Set
	loaded  time.Time // when current was
	failure error     // of the last attempt
}

// use notes that set is in force from now on.
func (h *history) use(set *rules.Set) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.current, h.loaded, h.failure = set, time.Now(), nil
}

// failed notes that an attempt to load a policy failed.
func (h *history) failed(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.failure = err
}

// inForce returns the rules in force.
func (h *history) inForce() *rules.Set {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.current
}

// show adds to what is known of the rules how loading them went.
func (h *history) show(r *admin.Rules) {
	h.mu.Lock()
	defer h.mu.Unlock()
	r.Loaded, r.ReloadOK = h.loaded, h.failure == nil
	if h.failure != nil {
		r.ReloadErr = h.failure.Error()
	}
}

// showRules returns the generation in force and the limits of all generations
// that have sessions here, the one in force first. Reloads of an unchanged
// file are one generation.
func showRules(file string, gens []proxy.Generation, st limiter.Status) admin.Rules {
	out := admin.Rules{File: ruleFileName(file), Limits: []admin.RuleLimit{}}
	shown := map[string]bool{}
	for i := len(gens) - 1; i >= 0; i-- {
		g := gens[i]
		if shown[g.Digest] {
			continue
		}
		shown[g.Digest] = true
		if g.Current {
			out.Digest, out.Generation, out.Number = g.Digest, g.Label, g.Number
		}
		for _, r := range limitedRules(g.Rules) {
			out.Limits = append(out.Limits, admin.RuleLimit{
				Rule: r.ID(), Place: r.Pos.String(), Generation: g.Label, Current: g.Current,
				Max: r.Session.Max, Sessions: st.Totals[proxy.Counter(g.Digest, r)],
			})
		}
	}
	return out
}
