package logging

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"usher/proxy/rules"
)

// Check agrees with Open about every kind of file, and changes none.
func TestCheckAgreesWithOpen(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	if err := os.WriteFile(path("old"), []byte("a line\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, target := range map[string]string{"link": "old", "dangling": "new-by-link", "dangling-nowhere": "nowhere/new"} {
		if err := os.Symlink(target, path(name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Mkfifo(path("fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	reader, err := os.OpenFile(path("fifo"), os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	for _, name := range []string{"old", "link", "new", "dangling", "dangling-nowhere", "nowhere/new", "", "fifo", "old/below"} {
		before := names(t, dir)
		found := Check(rules.Settings{LogOutput: []string{path(name)}})
		if after := names(t, dir); after != before {
			t.Errorf("%s: the folder holds %s, before the check %s", name, after, before)
		}
		f, err := openLogFile(path(name))
		if (err == nil) != (len(found) == 0) {
			t.Errorf("%s: the check found %v, opening %v", name, found, err)
		}
		if err == nil {
			f.file.Close()
		}
	}
	if text, err := os.ReadFile(path("old")); err != nil || string(text) != "a line\n" {
		t.Errorf("the old file holds %q, %v", text, err)
	}
}

// names lists the files of a folder.
func names(t *testing.T, dir string) (list string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		list += " " + e.Name()
	}
	return list
}
