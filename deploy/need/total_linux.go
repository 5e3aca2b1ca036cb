package need

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// totalFile is the variable that names the file in which the packages of one run add up
// what they skipped.
const totalFile = "USHER_TEST_SKIPPED"

// TotalFile returns the assignment that makes another go command add up with this run.
func TotalFile() string { return totalFile + "=" + totalName() }

// totalName returns the file of this run: that of the variable, else one of the go
// command that runs this test.
func totalName() string {
	if name := os.Getenv(totalFile); name != "" {
		return name
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", os.Getppid()))
	_, rest, found := strings.Cut(string(stat), ") ")
	fields := strings.Fields(rest)
	if err != nil || !found || len(fields) < 20 {
		return ""
	}
	started := fields[19] // proc(5): the 22nd in all
	return filepath.Join(os.TempDir(), fmt.Sprintf("usher-skipped-%d-%s", os.Getppid(), started))
}

// addUp adds what this package skipped to the total of the run, and returns that. If
// the file cannot be used, it returns own.
func addUp(own map[string]int) map[string]int {
	removeOld()
	f, err := os.OpenFile(totalName(), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return own
	}
	defer f.Close() // which ends the lock
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		return own
	}
	total := map[string]int{}
	text, err := io.ReadAll(f)
	if err != nil || len(text) > 0 && json.Unmarshal(text, &total) != nil {
		return own
	}
	for what, n := range own {
		total[what] += n
	}
	if text, err = json.Marshal(total); err != nil {
		return own
	}
	if _, err := f.WriteAt(text, 0); err != nil { // it only grows
		return own
	}
	return total
}

// removeOld removes the files of runs that have ended.
func removeOld() {
	files, _ := filepath.Glob(filepath.Join(os.TempDir(), "usher-skipped-*"))
	for _, file := range files {
		if info, err := os.Stat(file); err == nil && time.Since(info.ModTime()) > 24*time.Hour {
			_ = os.Remove(file)
		}
	}
}
