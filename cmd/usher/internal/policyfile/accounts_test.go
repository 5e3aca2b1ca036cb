package policyfile

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"usher/cmd/usher/internal/settings"
)

// A users file that others may read or write is a warning.
func TestExposedUsersFile(t *testing.T) {
	dir := t.TempDir()
	cfg := settings.Config{UsersFile: filepath.Join(dir, "users"), RuleFile: filepath.Join(dir, "sockd.conf")}
	const hash = "monica:$2y$05$abcdefghijklmnopqrstuuOZCxXs/8NZ3TOUfTJMiJ8tYV/4Ph1uq\n"
	for file, text := range map[string]string{cfg.UsersFile: hash, cfg.RuleFile: "socksmethod: username\nclient pass { from: 0/0 to: 0/0 }\nsocks pass { from: 0/0 to: 198.51.100.0/24 command: connect }\n"} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for mode, want := range map[os.FileMode]string{0o600: "", 0o640: "", 0o660: "", 0o644: "may read", 0o604: "may read", 0o602: "may write", 0o666: "may write"} {
		if err := os.Chmod(cfg.UsersFile, mode); err != nil {
			t.Fatal(err)
		}
		_, found, err := Load(cfg)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		for _, d := range found {
			if d.Pos.File == cfg.UsersFile {
				got += d.String()
			}
		}
		if (got == "") != (want == "") || !strings.Contains(got, want) {
			t.Errorf("mode %04o: %q, want %q", mode, got, want)
		}
	}
}
