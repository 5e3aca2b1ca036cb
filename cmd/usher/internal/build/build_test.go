package build

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"strings"
	"testing"

	"usher/deploy/need"
)

// The image has no repository to read the version from, so its Dockerfile hands
// it to the linker. This builds with the flags of the Dockerfile.
func TestVersionOfTheImage(t *testing.T) {
	need.Seconds(t)
	t.Parallel()
	file, err := os.ReadFile("../../../../deploy/compose/Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	flags := regexp.MustCompile(`-ldflags="([^"]+)"`).FindStringSubmatch(string(file))
	if flags == nil {
		t.Fatal("the Dockerfile has no -ldflags")
	}
	want := Info{Version: "v1.2.3", Commit: "0123abc", Date: "2026-01-02T03:04:05Z"}
	args := map[string]string{"VERSION": want.Version, "COMMIT": want.Commit, "DATE": want.Date}
	for name := range args {
		if !strings.Contains(string(file), "ARG "+name+"=") {
			t.Errorf("the Dockerfile has no ARG %s", name)
		}
	}
	binary := filepath.Join(t.TempDir(), "usher")
	out, err := exec.Command("go", "build", "-buildvcs=false", "-ldflags", os.Expand(flags[1], func(name string) string { return args[name] }), "-o", binary, "usher/cmd/usher").CombinedOutput()
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
