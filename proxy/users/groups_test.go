package users

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func loadGroups(t *testing.T, text string) (*Groups, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "groups")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return LoadGroups(path)
}

func TestGroups(t *testing.T) {
	g, err := loadGroups(t, "# the house\n\nstaff: monica ada\r\n  ops :\tada  bob\nstaff: carl\nempty:\n")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		group, user string
		want        bool
	}{
		{"staff", "monica", true}, {"staff", "ada", true}, {"staff", "carl", true}, {"staff", "bob", false},
		{"ops", "ada", true}, {"ops", "bob", true}, {"ops", "monica", false},
		{"Staff", "monica", false}, {"staff", "Monica", false}, {"staff", "", false}, {"empty", "ada", false},
		{"", "ada", false}, {"none", "ada", false},
	} {
		if got := g.In(c.group, c.user); got != c.want {
			t.Errorf("%q in %q: %v, want %v", c.user, c.group, got, c.want)
		}
	}
	if !g.Has("empty") || !g.Has("ops") || g.Has("none") {
		t.Error("the groups are not those of the file")
	}
	var none *Groups
	if none.Has("staff") || none.In("staff", "monica") {
		t.Error("no groups file has groups")
	}
}

func TestBadGroupLinesAreAllNamed(t *testing.T) {
	want := []string{"", "no colon", "no name", "blank in its name", "control characters", "not UTF-8", "colon or a comma", "colon or a comma"}
	g, err := loadGroups(t, "staff: monica\nmonica\n: monica\nthe staff: monica\nstaff: mon\aica\nstaff: \xff\nstaff: a,b\nstaff: a:b\n")
	joined, ok := err.(interface{ Unwrap() []error })
	if g != nil || !ok || len(joined.Unwrap()) != len(want)-1 {
		t.Fatalf("%v, %v; want %d errors", g, err, len(want)-1)
	}
	for _, err := range joined.Unwrap() {
		var line *LineError
		if !errors.As(err, &line) || !strings.Contains(line.What, want[line.Line-1]) || line.Remedy == "" {
			t.Errorf("%v, want %q", err, want[line.Line-1])
		}
	}
	path := filepath.Join(t.TempDir(), "absent")
	if _, err := LoadGroups(path); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), path) {
		t.Errorf("%v, want one that names %s", err, path)
	}
}
