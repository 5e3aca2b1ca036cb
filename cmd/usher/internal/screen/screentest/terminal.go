// Package screentest has terminals for tests.
package screentest

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// patience is the time limit of every wait for a terminal.
const patience = time.Minute

// Terminal is a terminal with a person before it, which is the test.
type Terminal struct {
	Side *os.File // of the programs that run in it
	t    testing.TB
	mine *os.File

	mu   sync.Mutex
	text strings.Builder // what programs have written
	more chan struct{}   // closed and replaced with each text
}

// Open opens a terminal of this size, until the end of the test.
func Open(t testing.TB, lines, columns uint16) *Terminal {
	t.Helper()
	mine, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	fd := int(mine.Fd())
	number, err := unix.IoctlGetUint32(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	side, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	p := &Terminal{Side: side, t: t, mine: mine, more: make(chan struct{})}
	p.Resize(lines, columns)
	read := make(chan struct{})
	go func() {
		defer close(read)
		p.read()
	}()
	t.Cleanup(func() {
		side.Close()
		<-read // nobody has the other side open any more
		mine.Close()
	})
	return p
}

// Resize gives the terminal another size.
func (p *Terminal) Resize(lines, columns uint16) {
	p.t.Helper()
	if err := unix.IoctlSetWinsize(int(p.mine.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: lines, Col: columns}); err != nil {
		p.t.Fatal(err)
	}
}

func (p *Terminal) read() {
	for b := make([]byte, 4096); ; {
		n, err := p.mine.Read(b)
		if err != nil {
			return
		}
		p.mu.Lock()
		p.text.Write(b[:n])
		close(p.more)
		p.more = make(chan struct{})
		p.mu.Unlock()
	}
}

// Start starts a program whose terminal this is. It ends with the test.
func (p *Terminal) Start(cmd *exec.Cmd) {
	p.t.Helper()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = p.Side, p.Side, p.Side
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 0, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() {
		if cmd.ProcessState == nil {
			cmd.Process.Kill() //nolint:errcheck // it may have ended
			cmd.Wait()         //nolint:errcheck // it was killed
		}
	})
}

// Type types keys.
func (p *Terminal) Type(keys string) {
	p.t.Helper()
	if _, err := p.mine.WriteString(keys); err != nil {
		p.t.Fatal(err)
	}
}

// Await waits until programs have written a text, and returns all that they wrote so far.
func (p *Terminal) Await(want string) string {
	p.t.Helper()
	deadline := time.After(patience)
	for {
		p.mu.Lock()
		text, more := p.text.String(), p.more
		p.mu.Unlock()
		if strings.Contains(text, want) {
			return text
		}
		select {
		case <-more:
		case <-deadline:
			p.t.Fatalf("no %q on the terminal:\n%q", want, text)
		}
	}
}
