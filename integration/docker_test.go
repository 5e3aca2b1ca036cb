package integration

import (
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"

	"usher/deploy/need"
)

// testImage is the shipped image as the tests build it.
const testImage = "usher:test"

// testRun names what the tests start in Docker, so that .ci/run finds leftovers.
var testRun = func() string {
	if name := os.Getenv("USHER_TEST_RUN"); name != "" {
		return name
	}
	return strconv.Itoa(os.Getpid())
}()

// docker runs the Docker client and returns what it printed.
func docker(args ...string) (string, error) {
	out, err := exec.Command("docker", args...).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

func mustDocker(t testing.TB, args ...string) string {
	t.Helper()
	out, err := docker(args...)
	if err != nil {
		t.Fatalf("docker %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return out
}

// needDocker ends the test if there is no Docker engine or one of its images
// is not at hand, and builds the shipped image.
func needDocker(t testing.TB, images ...string) {
	t.Helper()
	if testing.Short() {
		t.Skip("containers take their time: left out with -short")
	}
	need.Program(t, "docker")
	if out, err := docker("info", "--format", "{{.ServerVersion}}"); err != nil {
		t.Log(out)
		need.Missing(t, "a Docker engine")
	}
	for _, image := range append(images, "golang:1.26-alpine") {
		if _, err := docker("image", "inspect", image); err != nil {
			need.Missing(t, "docker image "+image)
		}
	}
	if out, err := buildImage(); err != nil {
		t.Fatalf("the shipped Dockerfile does not build: %v\n%s", err, out)
	}
}

var buildImage = sync.OnceValues(func() (string, error) {
	return docker("build", "-f", "../deploy/compose/Dockerfile", "-t", testImage, "..")
})
