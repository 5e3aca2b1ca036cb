package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"usher/cmd/usher/internal/settings"
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
	for _, verb := range []string{"serve", "validate", "explain", "probe", "status", "reload", "stop", "version"} {
		want = append(want, ".SS \"usher "+verb+"\"\n")
	}
	for _, v := range settings.Variables() {
		want = append(want, ".B "+v.Name+"\n", v.Help)
	}
	for _, part := range want {
		if !strings.Contains(plain, part) {
			t.Errorf("the page lacks %q", part)
		}
	}
	if _, err := exec.LookPath("man"); err != nil {
		t.Skip("man is not installed: the page was not formatted")
	}
	file := write(t, filepath.Join(t.TempDir(), "usher.1"), string(page))
	cmd := exec.Command("man", "--warnings", "-l", file)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "MANROFFSEQ=", "MANWIDTH=80")
	var complaints strings.Builder
	cmd.Stderr = &complaints
	if shown, err := cmd.Output(); err != nil || complaints.Len() > 0 || !strings.Contains(string(shown), "USHER_LISTEN") {
		t.Errorf("man: %v %s\n%s", err, complaints.String(), shown)
	}
}
