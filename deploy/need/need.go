// Package need finds the programs that tests run beside Usher: Redis, HAProxy,
// danted, SOCKS clients. If a program is not installed, the test is skipped. With
// CI=true it fails, unless CI cannot install the program. go test hides the output of
// packages that pass, so Summary prints lines that go test does not hide: how many
// tests were skipped, and which programs they need, in this package and in all packages
// of the run so far.
package need

import (
	"cmp"
	_ "embed"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"testing"
)

// debian has a line for each program: its name and Debian's package.
//
//go:embed debian.txt
var debian string

// Packages maps each program that some test wants to the Debian package that has it.
func Packages() map[string]string {
	all := map[string]string{}
	for line := range strings.Lines(debian) {
		if f := strings.Fields(line); len(f) == 2 && !strings.HasPrefix(line, "#") {
			all[f[0]] = f[1]
		}
	}
	return all
}

var (
	mu      sync.Mutex
	skipped = map[string]int{} // tests, by what they lacked
)

// Program returns the path of a program, or skips the test. In CI it fails.
func Program(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		Missing(t, name)
	}
	return path
}

// Seconds skips t with -short. It is for tests that take seconds on any machine, because
// they wait for time limits, leases or other programs.
func Seconds(t testing.TB) {
	t.Helper()
	if testing.Short() {
		t.Skip("takes seconds, so it does not run with -short")
	}
}

// Missing skips a test that lacks what, and counts it. In CI it fails.
func Missing(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("%s is not here, and CI runs every test", what)
	}
	skip(t, what)
}

// Unpackaged returns the path of a program that no package of Debian has, or skips
// the test and counts it, in CI as well: CI cannot install it.
func Unpackaged(t testing.TB, name string) string {
	t.Helper()
	if pkg, ok := Packages()[name]; ok {
		t.Fatalf("%s is in the package %s: ask for it with Program", name, pkg)
	}
	path, err := exec.LookPath(name)
	if err != nil {
		skip(t, name)
	}
	return path
}

func skip(t testing.TB, what string) {
	t.Helper()
	mu.Lock()
	skipped[what]++
	mu.Unlock()
	t.Skipf("%s is not here", what)
}

// Tests are the tests of a package, such as *testing.M.
type Tests interface{ Run() int }

// Summary runs tests and then writes the lines about those that were skipped to
// the standard error of go test. Tests that were skipped for a missing program
// run again next time, and are not answered from the cache.
func Summary(tests Tests) Tests { return summary{tests} }

type summary struct{ Tests }

func (s summary) Run() int {
	code := s.Tests.Run()
	if line := Line(); line != "" {
		NotCached()
		out := Stderr()
		fmt.Fprintln(out, line)
		fmt.Fprintln(out, totalLine())
	}
	return code
}

// Line says how many tests were skipped and for what, or nothing if none was.
func Line() string {
	mu.Lock()
	defer mu.Unlock()
	if len(skipped) == 0 {
		return ""
	}
	return packageName() + ": " + counted(skipped)
}

// totalLine says the same of all packages of the run that have ended. That of the last
// package is the summary of the run.
func totalLine() string {
	mu.Lock()
	defer mu.Unlock()
	return "all packages so far: " + counted(addUp(skipped))
}

func counted(skipped map[string]int) string {
	var what []string
	total := 0
	for _, name := range slices.SortedFunc(maps.Keys(skipped), func(a, b string) int {
		return cmp.Or(skipped[b]-skipped[a], strings.Compare(a, b))
	}) {
		total += skipped[name]
		what = append(what, fmt.Sprintf("%s (%d)", name, skipped[name]))
	}
	return fmt.Sprintf("tests SKIPPED: %d, not here: %s", total, strings.Join(what, ", "))
}

func packageName() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Path != "" {
		return strings.TrimSuffix(info.Path, ".test")
	}
	return os.Args[0]
}

// NotCached keeps go test from answering the next run of this package from its
// cache. It is to be called when the tests have run. go test notes which files
// and variables a test has read; an entry that it does not understand means that
// the run cannot be repeated. Should that change, runs are cached again.
func NotCached() {
	log := flag.Lookup("test.testlogfile")
	if log == nil || log.Value.String() == "" {
		return
	}
	f, err := os.OpenFile(log.Value.String(), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return
	}
	defer f.Close()
	fmt.Fprintln(f, "program missing")
}
