package policyfile

import (
	"errors"
	"fmt"
	"os"

	"usher/cmd/usher/internal/settings"
	"usher/proxy/rules"
	"usher/proxy/users"
)

// Accounts says how clients can log in, and which groups they are in.
type Accounts struct {
	UsersFile, GroupsFile bool           // the environment names one
	Users                 *users.Checker // nil: none was read
	Groups                *users.Groups  // nil: none was read

	doubts []rules.Diagnostic // about the files themselves, and about trusted networks
}

// LoadAccounts reads the users and groups files that cfg names. The error joins
// all mistakes in them.
func LoadAccounts(cfg settings.Config) (known Accounts, err error) {
	var errs []error
	if known.UsersFile = cfg.UsersFile != ""; known.UsersFile {
		if known.Users, err = users.Load(cfg.UsersFile); err != nil {
			errs = append(errs, fmt.Errorf("USHER_USERS_FILE: %w", err))
		}
		known.doubts = writableByAll(cfg.UsersFile, "users file", "guess the passwords of its hashes", "log in as anybody")
	}
	if known.GroupsFile = cfg.GroupsFile != ""; known.GroupsFile {
		if known.Groups, err = users.LoadGroups(cfg.GroupsFile); err != nil {
			errs = append(errs, fmt.Errorf("USHER_GROUPS_FILE: %w", err))
		}
		known.doubts = append(known.doubts, writableByAll(cfg.GroupsFile, "groups file", "", "join any group")...)
	}
	if cfg.RuleFile != "" && !cfg.Published() {
		known.doubts = append(known.doubts, writableByAll(cfg.RuleFile, "rule file", "", "open the proxy at the next reload")...)
	}
	if cfg.RuleKey != "" {
		known.doubts = append(known.doubts, writableByAll(cfg.RuleKey, "key file of the published rules", "", "publish rules")...)
	}
	known.doubts = append(known.doubts, broadNetworks(cfg)...)
	return known, errors.Join(errs...)
}

// writableByAll warns of a file that every user of the machine may write. If reading is
// not empty, it warns of one that they may read, too. If the file cannot be examined, it
// says nothing: the caller cannot read it either, and reports that.
func writableByAll(file, kind, reading, writing string) []rules.Diagnostic {
	info, err := os.Stat(file)
	if err != nil {
		return nil
	}
	what, consequence := "read", reading
	switch mode := info.Mode(); {
	case mode&0o002 != 0:
		what, consequence = "write", writing
	case mode&0o004 == 0 || reading == "":
		return nil
	}
	return []rules.Diagnostic{{
		Pos: rules.Pos{File: file, Line: 1, Col: 1}, Severity: rules.Warning,
		Message: fmt.Sprintf("every user of this machine may %s the %s (mode %04o) and so %s", what, kind, info.Mode().Perm(), consequence),
		Remedy:  "run chmod 600, or 640 with a group of Usher's own",
	}}
}

// AccountFindings returns the error of LoadAccounts as findings, one for each line
// that cannot be used, or for a file that cannot be read.
func AccountFindings(err error) (found []rules.Diagnostic) {
	var line *users.LineError
	switch joined := err.(type) { //nolint:errorlint // each error of a joined one counts
	case nil:
	case interface{ Unwrap() []error }:
		for _, one := range joined.Unwrap() {
			found = append(found, AccountFindings(one)...)
		}
	case *users.LineError:
		line = joined
		found = append(found, rules.Diagnostic{Pos: rules.Pos{File: line.File, Line: line.Line, Col: 1}, Message: line.What, Remedy: line.Remedy})
	default:
		if !errors.As(err, &line) {
			return []rules.Diagnostic{{Message: err.Error(), Remedy: "correct the variable, or let this user read the file"}}
		}
		return AccountFindings(errors.Unwrap(err))
	}
	return found
}
