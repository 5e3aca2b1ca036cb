package need

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Stderr returns the standard error of the go command that runs this test, or
// else that of the test itself, which go test hides if the package passes.
func Stderr() *os.File {
	parent := os.Getppid()
	name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", parent))
	if err != nil || strings.TrimSpace(string(name)) != "go" {
		return os.Stderr
	}
	if f := descriptor(parent); f != nil {
		return f
	}
	// Some systems let only a tracer share a descriptor. A terminal or a pipe may
	// be opened instead. A file may not: go would overwrite what is written here.
	path := fmt.Sprintf("/proc/%d/fd/2", parent)
	if info, err := os.Stat(path); err != nil || info.Mode().IsRegular() {
		return os.Stderr
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return os.Stderr
	}
	return f
}

// descriptor returns a copy of a process's descriptor 2, nil if it is not to be had.
func descriptor(process int) *os.File {
	pid, err := unix.PidfdOpen(process, 0)
	if err != nil {
		return nil
	}
	defer unix.Close(pid)
	fd, err := unix.PidfdGetfd(pid, 2, 0)
	if err != nil {
		return nil
	}
	return os.NewFile(uintptr(fd), "stderr of go test")
}
