package policyfile

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"usher/cmd/usher/internal/listen"
	"usher/proxy/rules"
)

// builtin are the rules of an usher without a rule file.
const builtin = `
client pass { from: 127.0.0.0/8 to: 0/0 }
client pass { from: ::1/128 to: 0/0 }
socks pass { from: 127.0.0.0/8 to: 0/0 }
socks pass { from: ::1/128 to: 0/0 }
`

const BuiltinName = "built-in rules"

// read reads and parses the rule file, or the built-in rules if name is
// empty. An error says that there is no text; what is wrong with the text is
// in the diagnostics, and then the set is nil. known is what names can be proved
// here, on which rules depend.
func read(name string, known Accounts) (*rules.Set, []rules.Diagnostic, error) {
	if name == "" {
		set, found := Parse(BuiltinName, []byte(builtin), known)
		return set, found, nil
	}
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, nil, fmt.Errorf("rule file: %w; USHER_CONFIG names it", err)
	}
	set, found := Parse(name, text, known)
	return set, found, nil
}

// Parse returns the findings in the order of their places, and no set if
// one of them is an error.
func Parse(name string, text []byte, known Accounts) (*rules.Set, []rules.Diagnostic) {
	set, found := rules.Parse(name, text, rules.Env{Interface: listen.InterfaceAddrs})
	if set != nil {
		found = append(found, checkAuth(name, set, known)...)
		Sort(found)
	}
	if AsError(found) != nil {
		set = nil
	}
	return set, found
}

// AsError returns what is wrong with a rule file, a line for each mistake.
func AsError(found []rules.Diagnostic) error {
	var all []error
	for _, d := range found {
		if d.Severity == rules.Error {
			all = append(all, errors.New(d.String()))
		}
	}
	return errors.Join(all...)
}

// Limited returns the rules whose sessions are counted, client-rules first.
func Limited(set *rules.Set) (list []*rules.Rule) {
	for _, r := range slices.Concat(set.Client, set.Socks) {
		if r.Pass && r.Session.Limited {
			list = append(list, r)
		}
	}
	return list
}

// Name returns what to call the rule file that the configuration names.
func Name(name string) string {
	if name == "" {
		return BuiltinName
	}
	return name
}
