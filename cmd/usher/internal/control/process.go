package control

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

func executable(pid string) string { return "/proc/" + pid + "/exe" }

// sameProgram reports whether a process runs the program of this one, or what was at
// its place before the file was replaced.
func sameProgram(pid int) bool {
	ours, err := os.Stat(executable("self"))
	theirs, err2 := os.Stat(executable(strconv.Itoa(pid)))
	if err == nil && err2 == nil && os.SameFile(ours, theirs) {
		return true
	}
	here, err := os.Readlink(executable("self"))
	there, err2 := os.Readlink(executable(strconv.Itoa(pid)))
	return err == nil && err2 == nil && strings.TrimSuffix(there, " (deleted)") == strings.TrimSuffix(here, " (deleted)")
}

// Running reports whether a process exists and is no zombie. Without /proc, a zombie
// counts as running.
func Running(pid int) bool { return running("/proc", pid) }

// running is Running with the place of /proc, which may be missing, or hide processes of
// other users.
func running(proc string, pid int) bool {
	if errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
		return false
	}
	dir := filepath.Join(proc, strconv.Itoa(pid))
	if _, err := os.Stat(dir); err != nil {
		return true
	}
	_, err := os.Readlink(filepath.Join(dir, "exe")) // a zombie has no program
	return !errors.Is(err, os.ErrNotExist)
}
