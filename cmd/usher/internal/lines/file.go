package lines

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// File is a file that lines are appended to. One goroutine uses it at a time.
type File struct {
	name string
	file *os.File
}

// OpenFile opens a file, or creates it. Errors name it.
func OpenFile(name string) (*File, error) {
	f := &File{name: name}
	return f, f.Reopen()
}

// Reopen opens the file by its name and closes the old one. If that fails, the old one
// stays. A FIFO without a reader is an error: to open it would wait for one.
//
// Each write goes to the end of the file at that time (O_APPEND), so a file that was
// copied and cut to nothing (logrotate's copytruncate) goes on at its beginning.
func (f *File) Reopen() error {
	file, err := os.OpenFile(f.name, os.O_WRONLY|os.O_APPEND|os.O_CREATE|syscall.O_NONBLOCK, 0o640)
	if err != nil {
		return err
	}
	if f.file != nil {
		f.file.Close()
	}
	f.file = file
	return nil
}

// Write appends lines. If it fails, the file has the lines that n counts, and no part of
// a line: of a pipe this is true if the lines are at most 4096 bytes long together.
func (f *File) Write(lines []byte) (n int, err error) {
	n, err = f.file.Write(lines)
	if err == nil {
		return n, nil
	}
	whole := bytes.LastIndexByte(lines[:n], '\n') + 1
	if part := n - whole; part > 0 && f.cutOff(int64(part)) {
		n = whole
	}
	return n, err
}

// cutOff removes the bytes that were written last, the first part of a line that a full
// disk has cut. The next line would be appended to it. It reports false if they are not
// the end of a regular file: another process may have written behind them.
func (f *File) cutOff(n int64) bool {
	end, err := f.file.Seek(0, io.SeekCurrent)
	if err != nil {
		return false
	}
	info, err := f.file.Stat()
	if err != nil || !info.Mode().IsRegular() || info.Size() != end {
		return false
	}
	return f.file.Truncate(end-n) == nil
}

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
