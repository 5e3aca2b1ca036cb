package lines

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// File is a file or stream that lines are appended to. One goroutine uses it at a time,
// but for Interrupt.
//
// A regular file has whole lines only, whatever the disk has room for. Several Files may
// append to the same one, also in several processes.
type File struct {
	name    string // "": a stream, which cannot be reopened
	file    *os.File
	own     *os.File // a regular file, as opened for this File alone; nil: it is none
	appends bool     // each write goes to the end of the file (O_APPEND)

	reopening sync.Mutex // while file changes
}

// OpenFile opens a file, or creates it. Errors name it.
func OpenFile(name string) (*File, error) {
	f := &File{name: name, appends: true}
	return f, f.Reopen()
}

// Stream returns the writer to use for a stream of this process, such as os.Stdout: a
// File, if it was redirected to a regular file.
func Stream(w io.Writer) io.Writer {
	file, ok := w.(*os.File)
	if !ok || !isRegular(file) {
		return w
	}
	// Other processes may have the same stream: a lock on it does not exclude them.
	own, err := os.OpenFile(fmt.Sprintf("/dev/fd/%d", file.Fd()), os.O_WRONLY, 0)
	if err != nil {
		return w
	}
	flags, err := unix.FcntlInt(file.Fd(), unix.F_GETFL, 0)
	return &File{file: file, own: own, appends: err == nil && flags&unix.O_APPEND != 0}
}

func isRegular(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode().IsRegular()
}

// Reopen opens the file by its name and closes the old one. If that fails, the old one
// stays. A FIFO without a reader is an error: to open it would wait for one.
//
// Each write goes to the end of the file at that time (O_APPEND), so a file that was
// copied and cut to nothing (logrotate's copytruncate) goes on at its beginning.
func (f *File) Reopen() error {
	file, err := os.OpenFile(f.name, os.O_WRONLY|os.O_APPEND|os.O_CREATE|syscall.O_NONBLOCK, 0o640)
	if err != nil {
		f.setDeadline(time.Time{})
		return explained(err, f.name)
	}
	f.reopening.Lock()
	defer f.reopening.Unlock()
	f.file.Close()
	f.file, f.own = file, nil
	if isRegular(file) {
		f.own = file
	}
	return nil
}

// explained says in words what the system says of a FIFO that nobody reads: that there is
// no such device or address.
func explained(err error, name string) error {
	info, errStat := os.Stat(name)
	if errors.Is(err, unix.ENXIO) && errStat == nil && info.Mode().Type() == fs.ModeNamedPipe {
		return fmt.Errorf("open %s: no program reads this FIFO", name)
	}
	return err
}

// Interrupt makes writes to a FIFO whose reader is stalled fail with
// os.ErrDeadlineExceeded, also one that waits for it, until Reopen. Nothing else waits.
func (f *File) Interrupt() {
	f.reopening.Lock()
	defer f.reopening.Unlock()
	f.setDeadline(time.Unix(1, 0))
}

// setDeadline does nothing to what has no deadlines, such as a regular file.
func (f *File) setDeadline(t time.Time) { _ = f.file.SetWriteDeadline(t) }

// Write appends lines. If it fails, the file has the lines that n counts, and no part of
// a line: of a pipe this is true if the lines are at most 4096 bytes long together.
func (f *File) Write(lines []byte) (n int, err error) {
	if f.own == nil {
		return f.file.Write(lines)
	}
	locked := lock(f.own)
	if locked {
		defer unlock(f.own)
	}
	// A full disk is to fail before it has cut a line.
	if err := reserve(f.own, f.next(), int64(len(lines))); err != nil {
		return 0, err
	}
	n, err = f.file.Write(lines)
	if err == nil {
		return n, nil
	}
	whole := bytes.LastIndexByte(lines[:n], '\n') + 1
	if part := n - whole; part > 0 && locked && f.cutOff(int64(part)) {
		n = whole
	}
	return n, err
}

// next returns where the next write goes. An error shows when that is written.
func (f *File) next() int64 {
	if !f.appends {
		at, _ := f.file.Seek(0, io.SeekCurrent)
		return at
	}
	info, err := f.own.Stat()
	if err != nil {
		return 0
	}
	return info.Size()
}

// cutOff removes the bytes that were written last, the first part of a line: not every
// full file tells that before it is written to. The next line would be appended to them.
// It reports false if they are not the end of the file: another program may have written
// behind them. The file is locked.
func (f *File) cutOff(n int64) bool {
	end, err := f.file.Seek(0, io.SeekCurrent)
	if err != nil {
		return false
	}
	info, err := f.own.Stat()
	if err != nil || info.Size() != end {
		return false
	}
	if !shorten(f.own, end-n) {
		return false
	}
	if !f.appends {
		_, err = f.file.Seek(end-n, io.SeekStart)
	}
	return err == nil
}

// shorten cuts a file to a size. If another program has cut it to nothing meanwhile, it
// stays empty.
func shorten(f *os.File, size int64) bool {
	if f.Truncate(size) != nil {
		return false
	}
	return !isHole(f) || f.Truncate(0) == nil
}

// lockPatience bounds how long a process that is stopped can hold others up.
const lockPatience = time.Second

// lock excludes other Files from a regular file. It reports false if it cannot.
func lock(f *os.File) bool {
	for end := time.Now().Add(lockPatience); ; time.Sleep(time.Millisecond) {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err != unix.EWOULDBLOCK || time.Now().After(end) {
			return err == nil
		}
	}
}

func unlock(f *os.File) { _ = unix.Flock(int(f.Fd()), unix.LOCK_UN) }

// Close closes the file.
func (f *File) Close() error { return f.file.Close() }

// Writable reports why OpenFile would fail now, as this user. It creates no file and
// changes none.
func Writable(name string) error {
	info, err := os.Stat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return creatable(name)
	case err != nil:
		return err
	case info.Mode().Type() == fs.ModeSocket:
		return &fs.PathError{Op: "open", Path: name, Err: unix.ENXIO}
	case !info.Mode().IsRegular() && !info.IsDir():
		// Opening and closing a FIFO would end the program that reads it.
		if err := access(name, unix.W_OK); err != nil {
			return fmt.Errorf("cannot write to %s: %w", name, err)
		}
		return nil
	}
	file, err := os.OpenFile(name, os.O_WRONLY|os.O_APPEND|syscall.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	return file.Close()
}

// creatable reports why a file that does not exist could not be created.
func creatable(name string) error {
	if target, err := os.Readlink(name); err == nil { // creating a link creates its target
		if !filepath.IsAbs(target) {
			target = filepath.Join(filepath.Dir(name), target)
		}
		name = target
	}
	if err := access(filepath.Dir(name), unix.W_OK|unix.X_OK); err != nil {
		return fmt.Errorf("cannot create %s: %w", name, err)
	}
	return nil
}

// access asks the system for the permissions of the effective user.
func access(path string, mode uint32) error {
	return unix.Faccessat(unix.AT_FDCWD, path, mode, unix.AT_EACCESS)
}
