package handover

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"syscall"
)

// Parent is the process that hands its listeners over to this one. A nil Parent stands
// for no such process, and its methods do nothing.
type Parent struct {
	reports *os.File
	said    string
}

// Receive returns the sockets that systemd or the process before has handed to this
// process. It must be called once, before this process starts others.
func Receive() (*Sockets, *Parent, error) {
	list, handed := os.LookupEnv(variable)
	if !handed {
		s, err := given()
		return s, nil, err
	}
	if err := os.Unsetenv(variable); err != nil { // processes that this one starts have no such parent
		return nil, nil, err
	}
	s, parent := new(Sockets), &Parent{reports: file(reportPipe, "reports")}
	var socks []socket
	if err := json.Unmarshal([]byte(list), &socks); err != nil {
		return nil, parent, fmt.Errorf("%s: %w", variable, err)
	}
	for i, sock := range socks {
		adopted, err := adopt(sock, file(firstSocket+i, sock.Address))
		if err != nil {
			return nil, parent, errors.Join(fmt.Errorf("listener %s of the process before: %w", sock.Address, err), s.Close())
		}
		s.waiting = append(s.waiting, adopted)
	}
	return s, parent, nil
}

func file(fd int, name string) *os.File {
	syscall.CloseOnExec(fd)
	return os.NewFile(uintptr(fd), name)
}

// Say tells the process before why this one is not ready, or why it ends.
func (p *Parent) Say(message string) {
	if p == nil || message == p.said {
		return
	}
	p.said = message
	_ = json.NewEncoder(p.reports).Encode(report{Message: message}) // it may have given up
}

// Ready tells the process before to stop accepting. If it returns an error, that
// process has given up or ended, and this one must not serve.
func (p *Parent) Ready() error {
	if p == nil {
		return nil
	}
	if err := json.NewEncoder(p.reports).Encode(report{Ready: true}); err != nil {
		return errors.Join(fmt.Errorf("the process before does not hand over any more: %w", err), p.reports.Close())
	}
	return p.reports.Close()
}
