package replica

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"slices"
	"strings"
	"testing"
)

// mayImport is all that the state machine may import: packages of values. None of them
// can read a clock, lock, wait, log or do IO.
var mayImport = []string{"cmp", "errors", "maps", "math", "slices", "time", "usher/store", "usher/store/limit"}

// mayUseOfTime are the names of package time that are values.
var mayUseOfTime = []string{"Duration", "Millisecond"}

// TestPure: the state machine has no goroutine, channel, lock, clock or IO.
func TestPure(t *testing.T) {
	entries, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	var seen int
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".go") || strings.HasSuffix(e.Name(), "_test.go") {
			continue
		}
		seen++
		files := token.NewFileSet()
		tree, err := parser.ParseFile(files, e.Name(), nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range tree.Imports {
			if path := strings.Trim(i.Path.Value, `"`); !slices.Contains(mayImport, path) || i.Name != nil {
				t.Errorf("%s imports %s", files.Position(i.Pos()), path)
			}
		}
		ast.Inspect(tree, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.GoStmt, *ast.SelectStmt, *ast.SendStmt, *ast.ChanType:
				t.Errorf("%s: %T", files.Position(n.Pos()), n)
			case *ast.SelectorExpr:
				if p, ok := n.X.(*ast.Ident); ok && p.Name == "time" && !slices.Contains(mayUseOfTime, n.Sel.Name) {
					t.Errorf("%s: time.%s", files.Position(n.Pos()), n.Sel.Name)
				}
			}
			return true
		})
	}
	if seen < 5 {
		t.Errorf("only %d sources are here", seen)
	}
}
