package policyfile

import (
	"strings"
	"testing"
)

func TestBuiltinRules(t *testing.T) {
	set, found, err := read("", Accounts{})
	if err != nil || set == nil || len(found) > 0 {
		t.Fatal(err, found)
	}
	if limits := Limited(set); len(limits) != 0 {
		t.Error("the built-in rules limit", limits)
	}
	if doubts := set.Lint(t.Context()); len(doubts) > 0 {
		t.Error("the built-in rules are doubtful:", doubts)
	}
	if !strings.HasPrefix(set.Client[0].Pos.String(), BuiltinName) {
		t.Error(set.Client[0].Pos)
	}
}
