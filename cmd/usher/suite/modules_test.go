package suite

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// forTests are modules and packages that only the tests import, with the reason why
// they are no part of the module usher, or of its program. Each stands for all that are
// below it.
var forTests = []struct {
	path, why string
	inModule  bool // may be in usher's go.mod, not in its program
}{
	{path: "github.com/testcontainers", why: "starts containers, and brings fifty modules"},
	{path: "github.com/moby", why: "the client of Docker"},
	{path: "github.com/docker", why: "the client of Docker"},
	{path: "github.com/redis/rueidis", why: "another client of Redis that benchmarks compare"},
	{path: "github.com/anishathalye/porcupine", why: "checks histories of whole clusters"},
	{path: "go.uber.org/goleak", why: "finds goroutines that tests leave behind", inModule: true},
	{path: "pgregory.net/rapid", why: "makes random inputs of tests", inModule: true},
	{path: "github.com/rogpeppe/go-internal/testscript", why: "runs scripts of commands in tests", inModule: true},
	{path: "github.com/stretchr/testify", why: "assertions of other modules' tests", inModule: true},
}

func TestModuleHasNoTestDependencies(t *testing.T) {
	module := modules(t, "list", "-m", "-f", "{{.Path}}", "all")
	program := modules(t, "list", "-deps", "-f", "{{with .Module}}{{$.ImportPath}}{{end}}", "usher/cmd/usher")
	if len(program) < 50 || len(module) < 10 {
		t.Fatalf("go list named %d packages of the program and %d modules", len(program), len(module))
	}
	for _, f := range forTests {
		below := func(path string) bool { return path == f.path || strings.HasPrefix(path, f.path+"/") }
		if i := slices.IndexFunc(module, below); i >= 0 && !f.inModule {
			t.Errorf("module usher depends on %s, which %s: import it in integration only", module[i], f.why)
		}
		if i := slices.IndexFunc(program, below); i >= 0 {
			t.Errorf("the program usher is built from %s, which %s", program[i], f.why)
		}
	}
}

// modules returns the lines that a go command prints, each once.
func modules(t *testing.T, args ...string) []string {
	t.Helper()
	out, err := exec.Command("go", args...).Output()
	if err != nil {
		t.Fatalf("go %s: %v", strings.Join(args, " "), err)
	}
	lines := strings.Fields(string(out))
	slices.Sort(lines)
	return slices.Compact(lines)
}
