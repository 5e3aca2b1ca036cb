package proxy

import (
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// order lists the files from callers to those that they call: a file should use what
// is declared further down. Steps that share a caller are in no order here; the package
// comment has the order of a session's way.
var order = []string{
	"listen", "drain", "session",
	"negotiate", "header", "bind", "dial", "udp", "decision",
	"reply", "slot", "deadline", "keepalive", "hangup_linux", "report",
	"server", "overload", "rulemetrics", "table", "metrics",
	"state", "generation", "sockets", "clientio", "outcome",
}

// What there is. A step in the right direction lowers these bounds; raise one
// only with a reason.
const (
	maxAgainst        = 3 // pairs of files: negotiate may let a health check in; server and overload know each other; so do a session and its server
	maxSessionFields  = 24
	maxSessionMethods = 56
)

// Files of this package use each other in the order of a session's way, but for
// a bounded number of pairs, and the session does not grow.
func TestFilesRunOneWay(t *testing.T) {
	pkg, files, info := check(t)
	pairs := map[[2]string]bool{}
	for id, used := range info.Uses {
		if used.Pkg() == pkg && (used.Parent() == pkg.Scope() || used.Parent() == nil) { // a declaration, a field or a method
			from, to := files(id.Pos()), files(used.Pos())
			if from != to {
				pairs[[2]string{from, to}] = true
			}
		}
	}
	var against []string
	for p := range pairs {
		from, to := slices.Index(order, p[0]), slices.Index(order, p[1])
		if from < 0 || to < 0 {
			t.Fatalf("%v: add the file to the order", p)
		}
		if from > to {
			against = append(against, p[0]+" uses "+p[1])
		}
	}
	slices.Sort(against)
	if len(against) > maxAgainst {
		t.Errorf("%d of %d pairs of files run against the order, want at most %d:\n%s",
			len(against), len(pairs), maxAgainst, strings.Join(against, "\n"))
	}
	session := pkg.Scope().Lookup("session").Type().(*types.Named)
	if n := session.Underlying().(*types.Struct).NumFields(); n > maxSessionFields {
		t.Errorf("a session has %d fields, want at most %d", n, maxSessionFields)
	}
	if n := session.NumMethods(); n > maxSessionMethods {
		t.Errorf("a session has %d methods, want at most %d", n, maxSessionMethods)
	}
}

// check type-checks this package for Linux, without what it imports: only its own
// declarations are asked about.
func check(t *testing.T) (*types.Package, func(token.Pos) string, *types.Info) {
	t.Helper()
	names, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	set := token.NewFileSet()
	var parsed []*ast.File
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") || strings.HasSuffix(name, "_other.go") || name == "doc.go" {
			continue
		}
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		file, err := parser.ParseFile(set, name, text, 0)
		if err != nil {
			t.Fatal(err)
		}
		parsed = append(parsed, file)
	}
	info := &types.Info{Uses: map[*ast.Ident]types.Object{}}
	config := types.Config{Importer: strangers{}, Error: func(error) {}}
	pkg, _ := config.Check("usher/proxy", set, parsed, info) // errors are about imports
	return pkg, func(p token.Pos) string { return strings.TrimSuffix(set.Position(p).Filename, ".go") }, info
}

// strangers are packages of which nothing is known.
type strangers struct{}

func (strangers) Import(path string) (*types.Package, error) {
	p := types.NewPackage(path, filepath.Base(path))
	p.MarkComplete()
	return p, nil
}
