package proxy

import (
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// order returns the files in the order in which the package comment names them first:
// the steps of a session, then what the steps use.
func order(t *testing.T) (files []string) {
	t.Helper()
	text, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`\b([a-z_]+)\.go\b`).FindAllSubmatch(text, -1) {
		if _, err := os.Stat(string(m[0])); err != nil {
			t.Errorf("doc.go names a file that does not exist: %v", err)
		}
		if name := string(m[1]); !slices.Contains(files, name) {
			files = append(files, name)
		}
	}
	return files
}

// Bounds. When the code improves, lower them. Raise one only for a reason.
const (
	maxAgainst        = 1 // pair of files: a session has its server
	maxSessionFields  = 24
	maxSessionMethods = 57
)

// Each file of this package uses only files that the package comment names after it,
// but for a bounded number of pairs, and the session does not grow.
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
	order := order(t)
	var against []string
	for p := range pairs {
		from, to := slices.Index(order, p[0]), slices.Index(order, p[1])
		if from < 0 || to < 0 {
			t.Fatalf("%v: name the file in doc.go", p)
		}
		if from > to {
			against = append(against, p[0]+" uses "+p[1])
		}
	}
	slices.Sort(against)
	if len(against) > maxAgainst {
		t.Errorf("%d of %d pairs of files run against the order of doc.go, want at most %d:\n%s",
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
