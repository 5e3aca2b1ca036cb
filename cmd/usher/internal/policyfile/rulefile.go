package policyfile

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"usher/cmd/usher/internal/listen"
	"usher/proxy/rules"
)

// builtin are the rules that apply without a rule file. The last two pass the answers of
// any peer.
const builtin = `
client pass { from: 127.0.0.0/8 to: 0/0 }
client pass { from: ::1/128 to: 0/0 }
socks pass { from: 127.0.0.0/8 to: 0/0 }
socks pass { from: ::1/128 to: 0/0 }
socks pass { from: 0/0 to: 127.0.0.0/8 command: bindreply udpreply }
socks pass { from: 0/0 to: ::1/128 command: bindreply udpreply }
`

// BuiltinName stands for the rule file where there is none.
const BuiltinName = "built-in rules"

// read reads and parses the rule file, or the built-in rules if name is empty.
// The error is for a file that cannot be read. Mistakes in its text are in the
// diagnostics, and then the set is nil.
func read(name string, known Accounts) (*rules.Set, []rules.Diagnostic, error) {
	if name == "" {
		set, found := Parse(BuiltinName, []byte(builtin), known)
		return set, found, nil
	}
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, nil, fmt.Errorf("rule file: %w; correct USHER_CONFIG", err)
	}
	set, found := Parse(name, text, known)
	return set, found, nil
}

// Parse parses the text of a rule file. It returns the findings in the order of their
// positions, and a nil set if one of them is an error. known decides what rules about
// users and groups mean.
func Parse(name string, text []byte, known Accounts) (*rules.Set, []rules.Diagnostic) {
	return parse(name, text, known, rules.Env{Interface: listen.InterfaceAddrs})
}

func parse(name string, text []byte, known Accounts, machine rules.Env) (*rules.Set, []rules.Diagnostic) {
	set, found := rules.Parse(name, text, machine)
	if set != nil {
		found = append(found, checkAuth(name, set, known)...)
		found = append(found, known.doubts...)
		rules.Sort(found)
	}
	if AsError(found) != nil {
		set = nil
	}
	return set, found
}

// AsError joins the errors among findings, one line each; nil if there are none.
func AsError(found []rules.Diagnostic) error {
	var all []error
	for _, d := range found {
		if d.Severity == rules.Error {
			all = append(all, errors.New(d.String()))
		}
	}
	return errors.Join(all...)
}

// Limited returns the rules that have a limit, client-rules first.
func Limited(set *rules.Set) (list []*rules.Rule) {
	for _, r := range slices.Concat(set.Client, set.Socks) {
		if r.Pass && r.Session.Limited {
			list = append(list, r)
		}
	}
	return list
}

// Name returns the name to show for the rule file: the built-in rules have one too.
func Name(name string) string {
	if name == "" {
		return BuiltinName
	}
	return name
}
