package policyfile

import (
	"fmt"
	"slices"

	"usher/proxy/decide"
	"usher/proxy/rules"
)

// checkAuth returns findings about methods, users and groups in rules that the parser
// cannot find, because they depend on whether there is a users file and a groups file.
// They are warnings. They are errors if a rule that blocks would block nobody because
// such a file is missing: Dante would block accounts of its system. file is the
// position of findings about the whole file.
func checkAuth(file string, set *rules.Set, known Accounts) []rules.Diagnostic {
	var a authCheck
	s, usersFile := set.Settings, known.UsersFile
	switch {
	case s.MethodsAt.Line > 0:
		a.offer(s.MethodsAt, s.Methods, usersFile, "nobody gets in")
	case file == BuiltinName: // the log says it, and there is no line to add
	case usersFile:
		a.warn(rules.Pos{File: file, Line: 1, Col: 1}, "there is no socksmethod: line and USHER_USERS_FILE is set, so every client must give a name and a password",
			"write socksmethod: username if that is meant, or socksmethod: username none if clients may do without a login")
	default:
		a.warn(rules.Pos{File: file, Line: 1, Col: 1}, "there is no socksmethod: line, so none is assumed and no client is asked for a name",
			"write socksmethod: none if that is meant")
	}
	for _, r := range set.Client {
		if r.MethodsAt.Line > 0 && r.Pass {
			a.offer(r.MethodsAt, r.Methods, usersFile, "clients of this rule cannot go on")
		}
	}
	can, could := negotiable(set, usersFile), negotiable(set, true)
	for _, r := range set.Socks {
		if !r.OnlySocks4() && a.groups(r, known) { // else the parser has warned
			a.demand(r, can, could, s)
		}
		a.nameless(r, can)
	}
	return a.found
}

type authCheck struct{ found []rules.Diagnostic }

func (a *authCheck) warn(at rules.Pos, message, remedy string) {
	a.add(rules.Warning, at, message, remedy)
}

func (a *authCheck) add(severity rules.Severity, at rules.Pos, message, remedy string) {
	a.found = append(a.found, rules.Diagnostic{Pos: at, Severity: severity, Message: message, Remedy: remedy})
}

// unmatched returns what follows if no client has a name that a socks-rule requires.
func unmatched(r *rules.Rule) (severity rules.Severity, never string) {
	if r.Pass {
		return rules.Warning, "never matches"
	}
	return rules.Error, "would block nobody"
}

// groups checks that the groups of a socks-rule exist. It reports whether there is
// more to check.
func (a *authCheck) groups(r *rules.Rule, known Accounts) bool {
	severity, never := unmatched(r)
	d := rules.Diagnostic{Pos: r.GroupAt, Severity: severity}
	switch {
	case r.GroupAt.Line == 0:
		return true
	case !known.GroupsFile:
		d.Message = "group: there is no groups file, so this rule " + never
		d.Remedy = "set USHER_GROUPS_FILE, or name the users in user:"
		a.found = append(a.found, d)
		return false
	case known.Groups == nil: // it cannot be read, which the caller reports
		return true
	}
	for _, name := range r.Groups() {
		if known.Groups.Has(name) {
			continue
		}
		d.Message = fmt.Sprintf("group: the groups file has no group %q, so for this group the rule %s", name, never)
		d.Remedy = fmt.Sprintf("add a line that begins with %q to the groups file and lists its users, or correct the name", name+":")
		a.found = append(a.found, d)
	}
	return true
}

const noUsers = "there is no users file, so no client can log in"

// offer checks the methods that clients are offered. ifAlone says what it means if
// username is the only one.
func (a *authCheck) offer(at rules.Pos, methods []rules.Method, usersFile bool, ifAlone string) {
	if usersFile || !slices.Contains(methods, rules.Username) {
		return
	}
	what := "the method username is not offered"
	if !slices.Contains(methods, rules.None) {
		what = ifAlone
	}
	a.warn(at, "socksmethod: "+noUsers+" and "+what, "set USHER_USERS_FILE to a file with names and passwords")
}

// demand checks whether clients can negotiate the method that a socks-rule needs. could
// is what they can with a users file.
func (a *authCheck) demand(r *rules.Rule, can, could []rules.Method, s rules.Settings) {
	at, needs := r.MethodsAt, r.Methods
	named, severity, never := "socksmethod: ", rules.Warning, "never matches" // the clients that it would block cannot log in at all
	if r.UserAt.Line > 0 || r.GroupAt.Line > 0 {
		at, needs, named = r.UserAt, []rules.Method{rules.Username}, "user: "
		severity, never = unmatched(r)
		if at.Line == 0 {
			at, named = r.GroupAt, "group: "
		}
		if len(s.Methods) > 0 && !slices.Contains(s.Methods, rules.Username) {
			return // the parser has warned
		}
	}
	oneOf := func(list []rules.Method) bool {
		return slices.ContainsFunc(needs, func(m rules.Method) bool { return slices.Contains(list, m) })
	}
	switch {
	case len(needs) == 0 || oneOf(can):
	case oneOf(could):
		a.add(severity, at, named+noUsers+" and this rule "+never, "set USHER_USERS_FILE to a file with names and passwords")
	case !slices.Contains(needs, rules.Username):
		// To offer none as well would let clients without a login through all other rules.
		a.warn(at, named+"every client must log in, so this rule never matches", "write socksmethod: username here, or remove the rule")
	default:
		a.warn(at, named+"no client can negotiate username, which this rule asks for, so it never matches",
			"write socksmethod: username none in a client-rule that passes its clients, or remove the rule")
	}
}

// nameless warns of sessions counted by user where clients have no name.
func (a *authCheck) nameless(r *rules.Rule, can []rules.Method) {
	named := r.UserAt.Line > 0 || r.GroupAt.Line > 0
	matches := len(r.Methods) == 0 || slices.Contains(r.Methods, rules.None)
	if r.Session.Key == rules.KeyUser && !named && matches && slices.Contains(can, rules.None) {
		a.warn(r.KeyAt, "session.state.key: user: clients that use the method none have no user name, so all of them count as one user",
			"add socksmethod: username to this rule, or count by from")
	}
}

// negotiable returns the methods by which any client can get to the
// socks-rules.
func negotiable(set *rules.Set, usersFile bool) (all []rules.Method) {
	policy := decide.Policy{Rules: set, Logins: usersFile}
	anybody := false
	for _, r := range set.Client {
		if r.Pass {
			anybody = true
			all = append(all, policy.Methods(r)...)
		}
	}
	if !anybody { // the parser has warned
		return policy.Methods(nil)
	}
	return all
}
