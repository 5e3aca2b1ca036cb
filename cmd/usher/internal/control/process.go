package control

import (
	"errors"
	"os"
	"strconv"
	"strings"
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

// Running reports whether a process exists and is no zombie: those have no
// program.
func Running(pid int) bool {
	_, err := os.Readlink(executable(strconv.Itoa(pid)))
	return err == nil || errors.Is(err, os.ErrPermission)
}
