package logging

import (
	"fmt"
	"os"
	"syscall"
)

// logFile is a file that log lines are appended to. Only one goroutine uses it.
type logFile struct {
	name string
	file *os.File
}

func openLogFile(name string) (*logFile, error) {
	f := &logFile{name: name}
	return f, f.reopen()
}

// reopen opens the file by its name and closes the old one. A FIFO without a
// reader is an error: to open it would wait for one.
func (f *logFile) reopen() error {
	file, err := os.OpenFile(f.name, os.O_WRONLY|os.O_APPEND|os.O_CREATE|syscall.O_NONBLOCK, 0o640)
	if err != nil {
		return fmt.Errorf("logoutput or errorlog: %w; name a file that usher can write, or stderr", err)
	}
	if f.file != nil {
		f.file.Close()
	}
	f.file = file
	return nil
}

// Write implements io.Writer.
func (f *logFile) Write(lines []byte) (int, error) { return f.file.Write(lines) }
