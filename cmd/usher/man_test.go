package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"usher/cmd/usher/internal/settings"
	"usher/deploy/need"
)

// The manual page comes from the command line itself, so it has every verb, flag
// and variable; and man reads it without a complaint.
func TestManualPage(t *testing.T) {
	t.Parallel()
	page, err := exec.Command("usher", "man").Output()
	if err != nil {
		t.Fatal(err)
	}
	plain := strings.NewReplacer(`\-`, "-", `\e`, `\`, `\(dq`, `"`).Replace(string(page))
	want := []string{`.SH "ENVIRONMENT"`, "--relayd", "--timeout=", "SIGHUP"}
	for _, verb := range []string{"serve", "validate", "explain", "probe", "status", "reload", "apply", "rollback", "generations", "keygen", "stop", "version"} {
		want = append(want, ".SS \"usher "+verb+"\"\n")
	}
	for _, verb := range []string{"sessions", "limits", "refusals", "why", "end", "drain", "undrain", "upgrade", "completion"} {
		want = append(want, ".SS \"usher "+verb+"\"\n")
	}
	for _, code := range []string{"0", "1", "2", "3", fmt.Sprint(unheardCode)} {
		want = append(want, ".B "+code+"\n")
	}
	for _, v := range settings.Variables() {
		want = append(want, ".B "+v.Name+"\n", v.Help)
	}
	for _, part := range want {
		if !strings.Contains(plain, part) {
			t.Errorf("the page lacks %q", part)
		}
	}
	formats(t, write(t, filepath.Join(t.TempDir(), "usher.1"), string(page)), "80", "USHER_LISTEN")
}

// wideTable is what man says of a table that needs a wider terminal.
var wideTable = regexp.MustCompile("warning: .*\n  table wider than line width\n")

// formats has man format a page for a terminal of this width. It must show a word of
// the page, and complain of nothing but wide tables.
func formats(t *testing.T, file, width, word string) {
	t.Helper()
	cmd := exec.Command(need.Program(t, "man"), "--warnings", "-l", file)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "MANROFFSEQ=t", "MANWIDTH="+width)
	var complaints strings.Builder
	cmd.Stderr = &complaints
	shown, err := cmd.Output()
	complaint := wideTable.ReplaceAllString(complaints.String(), "")
	if err != nil || complaint != "" || !strings.Contains(string(shown), word) {
		t.Errorf("man: %v %s\n%s", err, complaint, shown)
	}
}

// A release has both manual pages: that of the commands and that of the rule file.
func TestReleasePages(t *testing.T) {
	need.Seconds(t)
	t.Parallel()
	config, err := os.ReadFile(filepath.Join(top, ".goreleaser.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{"hooks: [sh deploy/release/man deploy/release/pages]", "src: deploy/release/pages/*"} {
		if !strings.Contains(string(config), part) {
			t.Errorf(".goreleaser.yaml lacks %q", part)
		}
	}
	dir := t.TempDir()
	if out, err := exec.Command("sh", filepath.Join(top, "deploy/release/man"), dir).CombinedOutput(); err != nil {
		if strings.Contains(string(out), "go-md2man") {
			need.Missing(t, "go-md2man")
		}
		t.Fatalf("%v: %s", err, out)
	}
	formats(t, filepath.Join(dir, "usher.1"), "80", "USHER_LISTEN")
	formats(t, filepath.Join(dir, "usher.conf.5"), "160", "session.state.throttle")
}
