package build

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"

	"usher/deploy/need"
)

const top = "../../../.."

// flags returns what deploy/version prints in a folder with the sources.
func flags(t *testing.T, dir string, env ...string) string {
	t.Helper()
	cmd := exec.Command(filepath.Join(dir, "deploy/version"))
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// This builds with the flags that the image and the release binaries are built with.
func TestVersionByFlags(t *testing.T) {
	need.Seconds(t)
	t.Parallel()
	want := Info{Version: "v1.2.3", Commit: "0123abc", Date: "2026-01-02T03:04:05Z"}
	ldflags := flags(t, top, "VERSION="+want.Version, "COMMIT="+want.Commit, "DATE="+want.Date)
	binary := filepath.Join(t.TempDir(), "usher")
	out, err := exec.Command("go", "build", "-buildvcs=false", "-ldflags", ldflags, "-o", binary, "usher/cmd/usher").CombinedOutput()
	if err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	out, err = exec.Command(binary, "version", "--json").Output()
	var got Info
	if err != nil || json.Unmarshal(out, &got) != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if got.Version != want.Version || got.Commit != want.Commit || got.Date != want.Date || !strings.HasPrefix(got.Go, "go1.") {
		t.Errorf("usher version --json: %+v, want %+v", got, want)
	}
	out, err = exec.Command(binary, "--version").Output()
	if line := "usher v1.2.3 (commit 0123abc, 2026-01-02T03:04:05Z) go1."; err != nil || !strings.HasPrefix(string(out), line) {
		t.Errorf("usher --version: %v %s, want %s", err, out, line)
	}
}

// A binary is dirty if what it is built from differs from the commit, and only then.
func TestVersionOfChangedSources(t *testing.T) {
	t.Parallel()
	need.Program(t, "git")
	dir := t.TempDir()
	file := func(name, text string) {
		t.Helper()
		name = filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o700), os.WriteFile(name, []byte(text), 0o700)); err != nil {
			t.Fatal(err)
		}
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
	script, err := os.ReadFile(filepath.Join(top, "deploy/version"))
	if err != nil {
		t.Fatal(err)
	}
	file("deploy/version", string(script))
	for _, name := range []string{"go.mod", "go.sum", "README.md", "cmd/a.go", "cmd/a_test.go", "proxy/a.go", "limiter/a.go", "store/testdata/a"} {
		file(name, "one")
	}
	const unknown = "-X usher/cmd/usher/internal/build.version= -X usher/cmd/usher/internal/build.commit= -X usher/cmd/usher/internal/build.date="
	if got := flags(t, dir, "GIT_CEILING_DIRECTORIES="+filepath.Dir(dir)); got != unknown {
		t.Errorf("without a repository: %s", got)
	}
	git("init", "-q")
	git("add", ".")
	git("commit", "-qm", "one")
	commit := git("rev-parse", "HEAD")
	for _, c := range []struct {
		what   string
		change func()
		dirty  bool
	}{
		{"nothing", func() {}, false},
		{"documents and tests", func() { file("README.md", "two"); file("cmd/a_test.go", "two"); file("store/testdata/b", "") }, false},
		{"a source", func() { file("proxy/a.go", "two") }, true},
		{"a source, staged", func() { file("cmd/a.go", "two"); git("add", ".") }, true},
		{"a new source", func() { file("limiter/b.go", "") }, true},
		{"no source", func() { _ = os.Remove(filepath.Join(dir, "limiter/a.go")) }, true},
		{"a dependency", func() { file("go.sum", "two") }, true},
	} {
		git("reset", "-q", "--hard")
		git("clean", "-qfd")
		c.change()
		got := flags(t, dir)
		if !strings.Contains(got, ".commit="+commit) || strings.Contains(got, commit+"-dirty") != c.dirty || strings.Count(got, "-dirty") > 2 {
			t.Errorf("%s changed: %s, want %s, dirty: %v", c.what, got, commit, c.dirty)
		}
	}
}

// Without linker flags, version control or the module knows the version.
func TestVersionWithoutFlags(t *testing.T) {
	vcs := []debug.BuildSetting{{Key: "vcs.revision", Value: "abc"}, {Key: "vcs.time", Value: "2026-01-01T00:00:00Z"}, {Key: "vcs.modified", Value: "true"}}
	for _, c := range []struct {
		what    string
		have    Info
		version string
		vcs     []debug.BuildSetting
		want    Info
	}{
		{"a repository", Info{}, "v0.0.0-2026+dirty", vcs, Info{Version: "v0.0.0-2026+dirty", Commit: "abc-dirty", Date: "2026-01-01T00:00:00Z"}},
		{"a clean repository without a tag", Info{}, "(devel)", vcs[:2], Info{Commit: "abc", Date: "2026-01-01T00:00:00Z"}},
		{"go install", Info{}, "v1.0.0", nil, Info{Version: "v1.0.0"}},
		{"the linker's flags win", Info{Version: "v2", Commit: "def", Date: "now"}, "v1.0.0", vcs, Info{Version: "v2", Commit: "def", Date: "now"}},
	} {
		if got := c.have.or(&debug.BuildInfo{Main: debug.Module{Version: c.version}, Settings: c.vcs}); got != c.want {
			t.Errorf("%s: %+v, want %+v", c.what, got, c.want)
		}
	}
}
