package logging

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"usher/proxy/rules"
)

// Check returns an error finding for each file in logoutput and errorlog that Open
// could not open now, as this user. It creates no file and changes none.
func Check(set rules.Settings) (found []rules.Diagnostic) {
	output, errorsOnly := destinations(set.LogOutput, set.ErrorLog, false)
	check := func(keyword string, at rules.Pos, names []string) {
		for _, name := range names {
			if name == "stderr" || name == "stdout" {
				continue
			}
			if err := writable(name); err != nil {
				found = append(found, rules.Diagnostic{Pos: at, Severity: rules.Error,
					Message: fmt.Sprintf("%s: usher serve could not open a log file: %v", keyword, err),
					Remedy:  "name a file that usher can write, or stderr"})
			}
		}
	}
	check("logoutput", set.LogOutputAt, output)
	check("errorlog", set.ErrorLogAt, errorsOnly)
	return found
}

// writable reports why logFile.reopen would fail.
func writable(name string) error {
	info, err := os.Stat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return creatable(name)
	case err != nil:
		return err
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
