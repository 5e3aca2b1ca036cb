package policyfile

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"usher/cmd/usher/internal/settings"
)

// A users file that others may read or write is a warning, and so are a groups
// file and a rule file that they may write.
func TestExposedFiles(t *testing.T) {
	dir := t.TempDir()
	cfg := settings.Config{
		UsersFile: filepath.Join(dir, "users"), GroupsFile: filepath.Join(dir, "groups"), RuleFile: filepath.Join(dir, "sockd.conf"),
		RuleKey: filepath.Join(dir, "key"),
	}
	for file, text := range map[string]string{
		cfg.UsersFile:  "monica:$2y$05$abcdefghijklmnopqrstuuOZCxXs/8NZ3TOUfTJMiJ8tYV/4Ph1uq\n",
		cfg.GroupsFile: "staff: monica\n",
		cfg.RuleKey:    "a key\n",
		cfg.RuleFile:   "socksmethod: username\nclient pass { from: 0/0 to: 0/0 }\nsocks pass { from: 0/0 to: 198.51.100.0/24 command: connect }\n",
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const none, read, write = "", "may read", "may write"
	for file, modes := range map[string]map[os.FileMode]string{
		cfg.UsersFile:  {0o640: none, 0o660: none, 0o644: read, 0o604: read, 0o602: write, 0o666: write, 0o600: none},
		cfg.RuleKey:    {0o644: none, 0o646: write, 0o600: none},
		cfg.GroupsFile: {0o640: none, 0o644: none, 0o602: write, 0o666: write, 0o600: none},
		cfg.RuleFile:   {0o640: none, 0o644: none, 0o602: write, 0o666: write, 0o600: none},
	} {
		for mode, want := range modes {
			if got := exposedWith(t, cfg, file, mode); (got == "") != (want == "") || !strings.Contains(got, want) {
				t.Errorf("%s, mode %04o: %q, want %q", filepath.Base(file), mode, got, want)
			}
		}
	}
}

// exposedWith returns what is found about a file as a whole while it has a mode.
func exposedWith(t *testing.T, cfg settings.Config, file string, mode os.FileMode) (got string) {
	t.Helper()
	if err := os.Chmod(file, mode); err != nil {
		t.Fatal(err)
	}
	_, found, err := Load(cfg)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range found {
		if d.Pos.File == file && strings.Contains(d.Message, "every user of this machine") {
			got += d.String()
		}
	}
	if err := os.Chmod(file, 0o600); err != nil {
		t.Fatal(err)
	}
	return got
}
