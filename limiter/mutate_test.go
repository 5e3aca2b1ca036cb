package limiter_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// A comment //mutate:name marks what a mutation changes. Without a replacement, the
// mutation removes the marked code: an operand of && or || that stands alone on its
// line, otherwise the statement that begins there. With a replacement, it replaces a
// condition (if), a list of values (case), what a loop ranges over, the value of a
// field, or else the whole statement.

// mutated are the folders with marked sources, below the module's root.
var mutated = []string{"limiter", "limiter/replica", "store/internal/model", "store/limit"}

// marker is the location of a mark.
type marker struct {
	path string // of the file
	line int
}

var mark = regexp.MustCompile(`//mutate:([a-z0-9-]+)`)

// markers finds the markers of all sources.
func markers(t *testing.T, root string) map[string]marker {
	t.Helper()
	found := map[string]marker{}
	for _, folder := range mutated {
		files, err := filepath.Glob(filepath.Join(root, folder, "*.go"))
		if err != nil || len(files) == 0 {
			t.Fatalf("no sources in %s: %v", folder, err)
		}
		for _, path := range files {
			if strings.HasSuffix(path, "_test.go") {
				continue
			}
			source, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			for i, line := range strings.Split(string(source), "\n") {
				for _, m := range mark.FindAllStringSubmatch(line, -1) {
					if before, ok := found[m[1]]; ok {
						t.Errorf("%s is marked twice, in %s and in %s", m[1], before.path, path)
					}
					found[m[1]] = marker{path, i + 1}
				}
			}
		}
	}
	return found
}

// mutate returns the source of a file with one mutation.
func (m marker) mutate(with string) ([]byte, error) {
	source, err := os.ReadFile(m.path)
	if err != nil {
		return nil, err
	}
	files := token.NewFileSet()
	tree, err := parser.ParseFile(files, m.path, source, parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	from, to, with, err := m.target(files, tree, with)
	if err != nil {
		return nil, err
	}
	out := string(source[:files.Position(from).Offset]) + with + string(source[files.Position(to).Offset:])
	if _, err := parser.ParseFile(token.NewFileSet(), m.path, out, parser.SkipObjectResolution); err != nil {
		return nil, fmt.Errorf("the mutant is not Go: %w", err)
	}
	return []byte(out), nil
}

// target returns what the mutation replaces, and by what.
func (m marker) target(files *token.FileSet, tree *ast.File, with string) (from, to token.Pos, text string, err error) {
	statement, field, operand, neutral := m.marked(files, tree)
	switch s := statement.(type) {
	case nil:
	case *ast.IfStmt:
		if with != "" {
			return s.Cond.Pos(), s.Cond.End(), with, nil
		}
	case *ast.CaseClause:
		if with != "" {
			return s.Pos(), s.Colon + 1, with, nil
		}
	case *ast.RangeStmt:
		if with != "" {
			return s.X.Pos(), s.X.End(), with, nil
		}
	default:
		if with != "" {
			return s.Pos(), s.End(), with, nil
		}
	}
	switch {
	case operand != nil && with == "":
		return operand.Pos(), operand.End(), neutral, nil
	case statement != nil && with == "":
		return statement.Pos(), statement.End(), "", nil
	case field != nil && with != "":
		return field.Value.Pos(), field.Value.End(), with, nil
	}
	return 0, 0, "", errors.New("nothing begins on the marked line that could be taken out or replaced")
}

// marked finds the outermost statement, field and operand on the marked line, and
// what an operand is replaced with to take it out.
func (m marker) marked(files *token.FileSet, tree *ast.File) (statement ast.Stmt, field *ast.KeyValueExpr, operand ast.Expr, neutral string) {
	line := func(at token.Pos) int { return files.Position(at).Line }
	begins := func(n ast.Node) bool { return line(n.Pos()) == m.line }
	ast.Inspect(tree, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.BlockStmt:
		case ast.Stmt:
			if statement == nil && begins(n) {
				statement = n
			}
		case *ast.KeyValueExpr:
			if field == nil && begins(n) {
				field = n
			}
		case *ast.BinaryExpr:
			if n.Op != token.LAND && n.Op != token.LOR {
				break
			}
			for _, side := range []ast.Expr{n.X, n.Y} {
				alone := line(n.X.End()) < line(n.Y.Pos()) && line(side.End()) == m.line
				if operand == nil && begins(side) && alone {
					operand, neutral = side, map[token.Token]string{token.LAND: "true", token.LOR: "false"}[n.Op]
				}
			}
		}
		return true
	})
	return statement, field, operand, neutral
}

// mutant is the source with one mutation.
type mutant struct {
	root, dir string
	overlay   string
}

// newMutant writes a mutation of the source into dir, as an overlay.
func newMutant(root, dir string, m marker, with string) (*mutant, error) {
	source, err := m.mutate(with)
	if err != nil {
		return nil, err
	}
	file := filepath.Join(dir, "mutant.go")
	if err := os.WriteFile(file, source, 0o600); err != nil {
		return nil, err
	}
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {m.path: file}})
	if err != nil {
		return nil, err
	}
	u := &mutant{root: root, dir: dir, overlay: filepath.Join(dir, "overlay.json")}
	return u, os.WriteFile(u.overlay, overlay, 0o600)
}

// build compiles the tests of a package. A mutant that does not compile proves nothing.
func (u *mutant) build(t *testing.T, folder string) (binary string, err error) {
	binary = filepath.Join(u.dir, "mutant.test")
	cmd := exec.CommandContext(t.Context(), "go", "test", "-c", "-o", binary, "-overlay", u.overlay, "-vet=off", "-ldflags=-s -w", "./"+folder)
	cmd.Dir = u.root
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("the mutant does not compile:\n%s", out)
	}
	return binary, nil
}

// survives runs a test on the mutant and reports whether it passes.
func (u *mutant) survives(t *testing.T, folder, test string) (bool, error) {
	binary, err := u.build(t, folder)
	if err != nil {
		return false, err
	}
	args := []string{"-test.run", "^" + strings.ReplaceAll(test, "/", "$/^") + "$", "-test.failfast", "-test.timeout=3m", "-test.v"}
	if folder == "limiter/replica" {
		args = append(args, "-sim.first=1", "-sim.seeds=100")
	}
	cmd := exec.CommandContext(t.Context(), binary, args...)
	cmd.Dir = filepath.Join(u.root, folder)
	out, err := cmd.CombinedOutput()
	if !strings.Contains(string(out), "=== RUN   "+test+"\n") {
		return false, fmt.Errorf("there is no %s in %s:\n%s", test, folder, out)
	}
	return err == nil || !strings.Contains(string(out), "--- FAIL: "), nil
}
