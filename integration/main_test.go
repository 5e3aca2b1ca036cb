package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"
)

// usher is the path of the binary under test, built once by TestMain.
var usher string

func TestMain(m *testing.M) { os.Exit(buildAndRun(m)) }

func buildAndRun(m *testing.M) int {
	dir, err := os.MkdirTemp("", "usher-integration")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	usher = filepath.Join(dir, "usher")
	args := []string{"build", "-o", usher}
	if raceEnabled {
		args = append(args, "-race")
	}
	build := exec.Command("go", append(args, "usher/cmd/usher")...)
	build.Stdout, build.Stderr = os.Stdout, os.Stderr
	if err := build.Run(); err != nil {
		fmt.Fprintf(os.Stderr, "building usher: %v\n", err)
		return 1
	}
	// Without these testcontainers believes that it runs inside a container
	// wherever there is a /.dockerenv, dials the default gateway, and wants an
	// image of its own for cleaning up, which our tests do themselves.
	os.Setenv("TESTCONTAINERS_HOST_OVERRIDE", "127.0.0.1")
	os.Setenv("TESTCONTAINERS_RYUK_DISABLED", "true")
	code := m.Run()
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

// inCI reports whether a missing tool is a failure.
func inCI() bool { return os.Getenv("CI") == "true" }

// missing ends a test that lacks what names.
func missing(t testing.TB, what string) {
	t.Helper()
	if inCI() {
		t.Fatalf("%s: needed in CI", what)
	}
	t.Skip(what)
}

// tool returns the path of a program that the test needs.
func tool(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		missing(t, name+" is not installed")
	}
	return path
}
