package lines

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"usher/deploy/need"
)

func TestMain(m *testing.M) { os.Exit(need.Summary(m).Run()) }

// opened opens a file for the time of the test.
func opened(t *testing.T, name string) *File {
	t.Helper()
	f, err := OpenFile(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

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
	fifo(t, path("fifo"))
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

// fifo makes a FIFO and returns its reader.
func fifo(t *testing.T, name string) *os.File {
	t.Helper()
	if err := syscall.Mkfifo(name, 0o600); err != nil {
		t.Fatal(err)
	}
	reader, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { reader.Close() })
	return reader
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
	f := opened(t, name)
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

// room limits the length of the files of this process, which stands for a full disk. The
// test must run alone.
func room(t *testing.T, n int64) {
	t.Helper()
	signal.Ignore(syscall.SIGXFSZ)
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: uint64(n), Max: 1 << 30}); err != nil {
		t.Fatal(err)
	}
}

// lineBytes is the length of each line that the tests write to a full disk.
const lineBytes = 100

// A disk that gets full in the middle of a line leaves whole lines, and gets further ones
// when it has room again: so do files, and streams that were redirected to a file.
func TestFullDiskLeavesWholeLines(t *testing.T) {
	t.Parallel()
	if !need.Alone(t) {
		return
	}
	for _, open := range []func(name string) (io.Writer, error){
		func(name string) (io.Writer, error) { return OpenFile(name) },
		func(name string) (io.Writer, error) {
			f, err := os.Create(name)
			return Stream(f), err
		},
		func(name string) (io.Writer, error) {
			f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
			return Stream(f), err
		},
	} {
		name := filepath.Join(t.TempDir(), "lines")
		out, err := open(name)
		if err != nil {
			t.Fatal(err)
		}
		fillDisk(t, name, out)
	}
}

func fillDisk(t *testing.T, name string, out io.Writer) {
	room(t, 100*lineBytes+lineBytes/2)
	q := NewQueue(out, nil)
	const lines = 300
	for i := range lines {
		fmt.Fprintf(q, "%*d\n", lineBytes-1, i)
	}
	q.Flush(time.Minute)
	expect := func(n int, last string) {
		t.Helper()
		text, err := os.ReadFile(name)
		if err != nil || len(text) != n*lineBytes || !strings.HasSuffix(string(text), last) {
			t.Errorf("%v, %d bytes, which end in %q; want %d lines, and the end %q", err, len(text), text[max(0, len(text)-8):], n, last)
		}
	}
	expect(100, " 99\n")
	if q.Dropped() != lines-100 {
		t.Errorf("%d lines dropped, want %d", q.Dropped(), lines-100)
	}
	room(t, 1<<20)
	fmt.Fprintf(q, "%*s\n", lineBytes-1, "space again")
	if !q.Close(time.Minute) {
		t.Error("not closed")
	}
	expect(101, "space again\n")
}

// Two that append to one file cut off their own lines only, while the disk is full and has
// room again in turn.
func TestTwoOnAFullDisk(t *testing.T) {
	t.Parallel()
	if !need.Alone(t) {
		return
	}
	name := filepath.Join(t.TempDir(), "lines")
	room(t, 0)
	var written atomic.Int64
	var over atomic.Bool
	var writers sync.WaitGroup
	for range 2 {
		f, err := OpenFile(name)
		if err != nil {
			t.Fatal(err)
		}
		writers.Go(func() {
			defer f.Close()
			for !over.Load() {
				n, _ := fmt.Fprintf(f, "%*s\n", lineBytes-1, "line")
				written.Add(int64(n))
			}
		})
	}
	size, end := int64(0), time.Now().Add(time.Minute)
	for n := int64(0); n < 2000*lineBytes; n += lineBytes * 7 / 10 { // a part of a line
		for room(t, n); size <= n-lineBytes && time.Now().Before(end); {
			info, err := os.Stat(name)
			if err != nil {
				t.Fatal(err)
			}
			size = info.Size()
		}
	}
	over.Store(true)
	writers.Wait()
	text, err := os.ReadFile(name)
	if err != nil || int64(len(text)) != written.Load() {
		t.Errorf("%v, the file has %d bytes, %d were written", err, len(text), written.Load())
	}
	for line := range strings.Lines(string(text)) {
		if len(line) != lineBytes {
			t.Fatalf("%q", line)
		}
	}
}

// A line that has no room is not begun: nothing is cut off that another program may have
// changed meanwhile.
func TestNoRoomForALine(t *testing.T) {
	t.Parallel()
	name := filepath.Join(need.SmallDisk(t, "8k"), "lines")
	f := opened(t, name)
	other := opened(t, name)
	line := strings.Repeat("x", 4999) + "\n"
	if n, err := io.WriteString(f, line); n != len(line) || err != nil {
		t.Fatal(n, err)
	}
	if !lock(other.own) { // so that f cuts off nothing
		t.Fatal("not locked")
	}
	if n, err := io.WriteString(f, line); n != 0 || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("%d bytes written, %v", n, err)
	}
	if text, err := os.ReadFile(name); err != nil || string(text) != line {
		t.Errorf("%d bytes, %v; want one line", len(text), err)
	}
}

// A file that was cut to nothing right before a part is cut off stays empty.
func TestShortenAfterCopytruncate(t *testing.T) {
	f := opened(t, filepath.Join(t.TempDir(), "lines"))
	for _, have := range []string{"", "a line\n"} {
		if _, err := io.WriteString(f, have); err != nil {
			t.Fatal(err)
		}
		if !shorten(f.own, 5000) {
			t.Error("not shortened")
		}
		info, err := f.file.Stat()
		if err != nil || (info.Size() > 0) != (have != "") {
			t.Errorf("%v, a file with %q is %d bytes long", err, have, info.Size())
		}
	}
}

// A FIFO whose reader is stalled does not hold up what replaces it: it gets all lines that
// the reader has not.
func TestReopenOfAStalledFIFO(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "lines")
	reader := fifo(t, name)
	unread := name + ".unread"
	fifo(t, unread).Close()
	if _, err := OpenFile(unread); err == nil || err.Error() != "open "+unread+": no program reads this FIFO" {
		t.Errorf("a FIFO without a reader: %v", err)
	}
	f := opened(t, name)
	reopened := make(chan error, 2)
	q := NewQueue(f, func() { reopened <- f.Reopen() })
	q.patience = time.Millisecond
	reopen := func() error {
		t.Helper()
		q.Reopen()
		select {
		case err := <-reopened:
			return err
		case <-time.After(time.Minute):
			t.Fatal("not reopened")
			return nil
		}
	}
	want := ""
	for i := range 1500 {
		line := fmt.Sprintf("%*d\n", lineBytes-1, i)
		want += line
		fmt.Fprint(q, line)
	}
	// First to nothing: the old one is kept, and its reader may go on.
	if err := os.Mkdir(name+".new", 0o700); err != nil {
		t.Fatal(err)
	}
	rename := func(from, to string) {
		t.Helper()
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	rename(name, name+".old")
	rename(name+".new", name)
	if err := reopen(); err == nil {
		t.Error("a folder was opened")
	}
	first := make([]byte, 10*lineBytes)
	if _, err := io.ReadFull(reader, first); err != nil {
		t.Fatal(err)
	}
	rename(name, name+".folder")
	if err := reopen(); err != nil {
		t.Fatal(err)
	}
	if !q.Close(time.Minute) || q.Dropped() != 0 {
		t.Errorf("not closed, or %d lines dropped", q.Dropped())
	}
	rest, err := io.ReadAll(reader) // it has no writer any more
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(name)
	if got := string(first) + string(rest) + string(text); err != nil || got != want {
		t.Errorf("%v, %d bytes in both, want %d", err, len(got), len(want))
	}
	if len(text) == 0 {
		t.Error("the reader has got all")
	}
}

// What another process has written behind the part of a line stays.
func TestCutOffSparesOthers(t *testing.T) {
	name := filepath.Join(t.TempDir(), "lines")
	f := opened(t, name)
	other := opened(t, name)
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
}
