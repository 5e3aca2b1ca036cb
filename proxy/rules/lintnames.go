package rules

import (
	"fmt"
	"iter"
	"slices"
)

// manyNames is how many host names a file may hold without a warning. Usher looks
// them up one after the other while a request waits.
const manyNames = 100

// HostNames returns the host names in the rules, each once, in their order. It
// leaves out .domain.
func (s *Set) HostNames() []string {
	var names []string
	seen := map[string]bool{}
	for r := range s.rules() {
		for _, a := range []address{r.cond.from.address, r.cond.to.address} {
			if a.kind == hostAddress && !seen[a.name] {
				seen[a.name] = true
				names = append(names, a.name)
			}
		}
	}
	return names
}

func (s *Set) rules() iter.Seq[*Rule] { return slices.Values(slices.Concat(s.Client, s.Socks)) }

// lintNames warns once of many host names, at the one that is too many.
func (s *Set) lintNames() []Diagnostic {
	names := s.HostNames()
	if len(names) <= manyNames {
		return nil
	}
	for r := range s.rules() {
		is := func(a address) bool { return a.kind == hostAddress && a.name == names[manyNames] }
		if is(r.cond.from.address) || is(r.cond.to.address) {
			return []Diagnostic{r.warning(
				fmt.Sprintf("the rules have %d host names, and a request that reaches their rules waits while Usher looks up one after the other", len(names)),
				"write .domain where clients ask for names, which matches all names below it too, and addresses otherwise")}
		}
	}
	return nil
}
