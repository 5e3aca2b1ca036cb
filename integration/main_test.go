package integration

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"usher/deploy/need"
)

// usher is the path of the binary under test, built once by TestMain.
var usher string

// smoke are the tests that -short runs if -run asks for no others: one limit
// over replicas behind HAProxy, and the tests of the tests' own judges.
const smoke = "^(TestTenOnTheWeb|TestMost|TestExcess|TestLimitModel)$"

func TestMain(m *testing.M) {
	flag.Parse()
	if run := flag.Lookup("test.run"); testing.Short() && run.Value.String() == "" {
		if err := run.Value.Set(smoke); err != nil {
			panic(err)
		}
	}
	os.Exit(buildAndRun(m))
}

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
	build := exec.Command("go", append(args, "./cmd/usher")...)
	build.Dir = ".." // its module has the versions that it is built with
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
	code := need.Summary(m).Run()
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}
