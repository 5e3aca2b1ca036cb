package lines

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Writable agrees with OpenFile about every kind of file, and changes none.
func TestWritableAgreesWithOpenFile(t *testing.T) {
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
	socket, err := net.Listen("unix", path("socket"))
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	for _, name := range []string{"old", "socket", "link", "new", "dangling", "dangling-nowhere", "nowhere/new", "", "fifo", "old/below"} {
		before := names(t, dir)
		writable := Writable(path(name))
		if after := names(t, dir); after != before {
			t.Errorf("%s: the folder holds %s, before the check %s", name, after, before)
		}
		f, err := OpenFile(path(name))
		if (err == nil) != (writable == nil) {
			t.Errorf("%s: the check found %v, opening %v", name, writable, err)
		}
		if err == nil {
			f.Close()
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

// A file that was cut to nothing goes on at its beginning; one that was renamed gets
// lines until it is reopened.
func TestFileThatIsRotated(t *testing.T) {
	name := filepath.Join(t.TempDir(), "lines")
	f, err := OpenFile(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	write := func(line string) {
		t.Helper()
		if _, err := f.Write([]byte(line)); err != nil {
			t.Fatal(err)
		}
	}
	write("one\n")
	if err := os.Truncate(name, 0); err != nil {
		t.Fatal(err)
	}
	write("two\n")
	if err := os.Rename(name, name+".1"); err != nil {
		t.Fatal(err)
	}
	write("three\n")
	if err := f.Reopen(); err != nil {
		t.Fatal(err)
	}
	write("four\n")
	for file, want := range map[string]string{name: "four\n", name + ".1": "two\nthree\n"} {
		if text, err := os.ReadFile(file); err != nil || string(text) != want {
			t.Errorf("%s: %q, %v; want %q", filepath.Base(file), text, err, want)
		}
	}
}

const fullDiskEnv = "USHER_TEST_FULL_DISK"

// A disk that gets full in the middle of a line leaves whole lines. The system sets the
// limit that stands for it for a process, so that the test runs itself in another one.
func TestFullDiskLeavesWholeLines(t *testing.T) {
	if name := os.Getenv(fullDiskEnv); name != "" {
		fillDisk(t, name)
		return
	}
	name := filepath.Join(t.TempDir(), "lines")
	child := exec.Command(os.Args[0], "-test.run=^TestFullDiskLeavesWholeLines$")
	child.Env = append(os.Environ(), fullDiskEnv+"="+name)
	if out, err := child.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

func fillDisk(t *testing.T, name string) {
	signal.Ignore(syscall.SIGXFSZ)
	const room = 10_050 // half of a line is left in the end
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: room, Max: room}); err != nil {
		t.Fatal(err)
	}
	f, err := OpenFile(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	q := NewQueue(f, nil)
	const lines, length = 300, 100
	for i := range lines {
		fmt.Fprintf(q, "%*d\n", length-1, i)
	}
	q.Flush(time.Minute)
	expect := func(n int, last string) {
		t.Helper()
		text, err := os.ReadFile(name)
		if err != nil || len(text) != n*length || !strings.HasSuffix(string(text), last) {
			t.Errorf("%v, %d bytes, which end in %q; want %d lines, and the end %q", err, len(text), text[max(0, len(text)-8):], n, last)
		}
	}
	expect(100, " 99\n")
	if q.Dropped() != lines-100 {
		t.Errorf("%d lines dropped, want %d", q.Dropped(), lines-100)
	}
	if err := os.Truncate(name, 0); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(q, "%*s\n", length-1, "space again")
	if !q.Close(time.Minute) {
		t.Error("not closed")
	}
	expect(1, "space again\n")
}

// What another process has written behind the part of a line stays.
func TestCutOffSparesOthers(t *testing.T) {
	name := filepath.Join(t.TempDir(), "lines")
	f, err := OpenFile(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	other, err := OpenFile(name)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	_, errPart := f.Write([]byte("part"))
	_, errOther := other.Write([]byte("of another\n"))
	if err := errors.Join(errPart, errOther); err != nil {
		t.Fatal(err)
	}
	if f.cutOff(4) {
		t.Error("cut off, although another process has written")
	}
	if text, err := os.ReadFile(name); err != nil || !bytes.Equal(text, []byte("partof another\n")) {
		t.Errorf("%q, %v", text, err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	if _, err := io.WriteString(w, "part"); err != nil {
		t.Fatal(err)
	}
	if (&File{file: w}).cutOff(4) {
		t.Error("cut off a pipe")
	}
}
