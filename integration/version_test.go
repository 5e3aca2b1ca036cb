package integration

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"usher/deploy/need"
)

// TestVersionOfTheImage builds the image as docker compose up --build does, without
// arguments, from a clean clone, from a changed one, and from the sources alone.
func TestVersionOfTheImage(t *testing.T) {
	needDocker(t)
	need.Program(t, "git")
	dir := filepath.Join(shared(t, "clone"), "usher")
	if out, err := exec.Command("git", "clone", "-q", "..", dir).CombinedOutput(); err != nil {
		t.Fatalf("git clone: %v: %s", err, out)
	}
	git := func(args ...string) string {
		t.Helper()
		args = append([]string{"-C", dir, "-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgSign=false"}, args...)
		out, err := exec.Command("git", args...).CombinedOutput()
		if err != nil {
			t.Fatalf("git %v: %v: %s", args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	commit := git("rev-parse", "HEAD")

	image := "usher:version" + testRun
	t.Cleanup(func() { docker("rmi", image) }) //nolint:errcheck // it may not be there
	version := func() (v struct{ Version, Commit, Date string }) {
		t.Helper()
		mustDocker(t, "build", "-q", "-f", filepath.Join(dir, "deploy/compose/Dockerfile"), "-t", image, dir)
		said := mustDocker(t, "run", "--rm", "--label", "usher.test="+testRun, image, "version", "--json")
		if err := json.Unmarshal([]byte(said), &v); err != nil {
			t.Fatalf("%v: %s", err, said)
		}
		return v
	}
	if v := version(); v.Commit != commit || v.Version == "devel" || strings.Contains(v.Version, "dirty") || v.Date == "unknown" {
		t.Errorf("from a clean clone of %s: %+v", commit, v)
	}
	// The sources stay as they were, so that nothing is compiled again. What they are
	// compared with changes.
	main := filepath.Join(dir, "cmd/usher/main.go")
	was := readFile(t, main)
	writeFile(t, main, was+"\n// changed\n")
	git("commit", "-qam", "another main.go")
	writeFile(t, main, was)
	commit = git("rev-parse", "HEAD")
	if v := version(); v.Commit != commit+"-dirty" || !strings.HasSuffix(v.Version, "-dirty") {
		t.Errorf("from a changed clone of %s: %+v", commit, v)
	}
	if err := os.RemoveAll(filepath.Join(dir, ".git")); err != nil {
		t.Fatal(err)
	}
	if v := version(); v.Version != "devel" || v.Commit != "unknown" || v.Date != "unknown" {
		t.Errorf("from the sources alone: %+v", v)
	}
}
