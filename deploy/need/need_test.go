package need

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// CONTRIBUTING.md tells people what to install, debian.txt tells CI.
func TestPackagesAreDocumented(t *testing.T) {
	page, err := os.ReadFile("../../CONTRIBUTING.md")
	if err != nil {
		t.Fatal(err)
	}
	words := strings.Fields(string(page))
	packages := Packages()
	if len(packages) < 10 {
		t.Errorf("debian.txt names %d programs", len(packages))
	}
	for program, pkg := range packages {
		if !slices.Contains(words, pkg) {
			t.Errorf("CONTRIBUTING.md does not name the package %s, which has %s", pkg, program)
		}
	}
}

// A test that lacks a program is skipped and counted; in CI it fails.
func TestMissing(t *testing.T) {
	const nothing = "usher-no-such-program"
	t.Cleanup(func() { delete(skipped, nothing) })
	t.Setenv("CI", "")
	for range 2 {
		if !ended(t, func(r *recorded) { Program(r, nothing) }).skipped {
			t.Error("not skipped")
		}
	}
	if line := Line(); !strings.HasSuffix(line, "deploy/need: tests SKIPPED: 2, not here: "+nothing+" (2)") {
		t.Errorf("summary %q", line)
	}
	// The packages of a run add up.
	t.Setenv("USHER_TEST_SKIPPED", filepath.Join(t.TempDir(), "total"))
	for _, want := range []int{2, 4} {
		line := totalLine()
		if line != fmt.Sprintf("all packages so far: tests SKIPPED: %d, not here: %s (%[1]d)", want, nothing) && runtime.GOOS == "linux" {
			t.Errorf("total %q, want %d", line, want)
		}
	}
	t.Setenv("CI", "true")
	if got := ended(t, func(r *recorded) { Program(r, nothing) }); got.skipped || !got.failed {
		t.Error("did not fail in CI")
	}
	// What CI cannot install is skipped there, too, and never what it can.
	if got := ended(t, func(r *recorded) { Unpackaged(r, nothing) }); !got.skipped || got.failed || skipped[nothing] != 3 {
		t.Errorf("without a package, in CI: %+v, counted %d times", got, skipped[nothing])
	}
	if got := ended(t, func(r *recorded) { Unpackaged(r, "haproxy") }); !got.failed {
		t.Error("a program of a package was taken for one without")
	}
	if path := Program(t, "go"); path == "" {
		t.Error("no path of go")
	}
}

// recorded is a test that notes how it ended.
type recorded struct {
	testing.TB
	skipped, failed bool
}

func (r *recorded) Helper()               {}
func (r *recorded) Fatalf(string, ...any) { r.failed = true; panic(r) }
func (r *recorded) Skipf(string, ...any)  { r.skipped = true; panic(r) }

func ended(t *testing.T, body func(*recorded)) (r *recorded) {
	r = &recorded{TB: t}
	defer func() {
		if end := recover(); end != nil && end != any(r) {
			panic(end)
		}
	}()
	body(r)
	return r
}

// What this process has taken, no other gets before this one ends.
func TestPortsAreOfOneProcess(t *testing.T) {
	if len(ports.claims) == 0 {
		t.Skip("no block of ports is free, or the system has no abstract names")
	}
	block := (Port(t) - firstPort) / blockSize
	if ln, err := net.Listen("unix", nameOf(block)); err == nil {
		ln.Close()
		t.Errorf("block %d can be taken again", block)
	}
	seen := map[int]bool{}
	for range 2 * blockSize {
		port := Port(t)
		if seen[port] {
			t.Fatalf("port %d is handed out twice", port)
		}
		seen[port] = true
	}
}
