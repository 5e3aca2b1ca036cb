package lines

import (
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// reserve fails if the disk has no room for n bytes at an offset. Otherwise they have
// their room, but in file systems that cannot tell.
func reserve(f *os.File, at, n int64) error {
	switch err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, at, n); err {
	case unix.ENOSPC, unix.EDQUOT:
		return &fs.PathError{Op: "write", Path: f.Name(), Err: err}
	}
	return nil
}

// isHole reports whether nothing was ever written to what a file has now.
func isHole(f *os.File) bool {
	_, err := unix.Seek(int(f.Fd()), 0, unix.SEEK_DATA)
	return err == unix.ENXIO
}
