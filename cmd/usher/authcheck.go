package main

import (
	"slices"

	"usher/proxy/rules"
)

// checkAuth returns warnings about rules that say something else than they
// seem to, given how clients can prove their names here: only with a users
// file, and by no method but none or username if the file names none. The
// rules alone cannot know that. file is the name for findings about all of it.
func checkAuth(file string, set *rules.Set, usersFile bool) []rules.Diagnostic {
	var a authCheck
	s := set.Settings
	switch {
	case s.MethodsAt.Line > 0:
		a.offer(s.MethodsAt, s.Methods, usersFile, "nobody gets in")
	case file == builtinName: // the log says it, and there is no line to add
	case usersFile:
		a.warn(rules.Pos{File: file, Line: 1, Col: 1}, "there is no socksmethod: line and USHER_USERS_FILE is set, so every client must give a name and a password",
			"write socksmethod: username if that is meant, or name all methods")
	default:
		a.warn(rules.Pos{File: file, Line: 1, Col: 1}, "there is no socksmethod: line, so none is assumed and no client is asked for a name",
			"write socksmethod: none if that is meant")
	}
	for _, r := range set.Client {
		if r.MethodsAt.Line > 0 && r.Pass {
			a.offer(r.MethodsAt, r.Methods, usersFile, "nobody whom this rule lets in can go on")
		}
	}
	can := negotiable(set, usersFile)
	for _, r := range set.Socks {
		a.demand(r, can, s, usersFile)
	}
	return a.found
}

type authCheck struct{ found []rules.Diagnostic }

func (a *authCheck) warn(at rules.Pos, message, remedy string) {
	a.found = append(a.found, rules.Diagnostic{Pos: at, Severity: rules.Warning, Message: message, Remedy: remedy})
}

const noUsers = "there is no users file, so no client can log in"

// offer checks methods that clients are offered.
func (a *authCheck) offer(at rules.Pos, methods []rules.Method, usersFile bool, ifAlone string) {
	if usersFile || !slices.Contains(methods, rules.Username) {
		return
	}
	what := "the method username is not offered"
	if !slices.Contains(methods, rules.None) {
		what = ifAlone
	}
	a.warn(at, "socksmethod: "+noUsers+" and "+what, "set USHER_USERS_FILE, or remove username")
}

// demand checks what a socks-rule demands of the method that was negotiated.
func (a *authCheck) demand(r *rules.Rule, can []rules.Method, s rules.Settings, usersFile bool) {
	at, needs := r.MethodsAt, r.Methods
	named := "socksmethod: "
	switch {
	case r.GroupAt.Line > 0:
		a.warn(r.GroupAt, "group: there is no groups file, so this rule never matches", "name the users in user:")
		return
	case r.UserAt.Line > 0:
		at, needs, named = r.UserAt, []rules.Method{rules.Username}, "user: "
		if len(s.Methods) > 0 && !slices.Contains(s.Methods, rules.Username) {
			return // the parser has warned
		}
	}
	switch {
	case len(needs) == 0 || slices.ContainsFunc(needs, func(m rules.Method) bool { return slices.Contains(can, m) }):
	case !usersFile && slices.Contains(needs, rules.Username):
		a.warn(at, named+noUsers+" and this rule never matches", "set USHER_USERS_FILE, or remove the line")
	default:
		a.warn(at, named+"no client can negotiate what this rule asks for, so it never matches",
			"add the method to socksmethod: in the server settings and in the client-rules that have one")
	}
}

// negotiable returns the methods by which any client can get to the
// socks-rules. It is what proxy.Policy decides for each client-rule.
func negotiable(set *rules.Set, usersFile bool) []rules.Method {
	var all []rules.Method
	add := func(r *rules.Rule) {
		switch {
		case len(set.Settings.Methods) > 0 || r != nil && len(r.Methods) > 0:
			all = append(all, set.MethodsFor(r)...)
		case usersFile:
			all = append(all, rules.Username)
		default:
			all = append(all, rules.None)
		}
	}
	for _, r := range set.Client {
		if r.Pass {
			add(r)
		}
	}
	if len(all) == 0 {
		add(nil) // the parser has warned that nobody gets in
	}
	return slices.DeleteFunc(all, func(m rules.Method) bool { return m == rules.Username && !usersFile })
}
