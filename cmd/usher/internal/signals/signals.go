// Package signals has the signals that usher serve handles.
package signals

import (
	"os"
	"os/signal"
	"syscall"
	"time"
)

// Signals of usher drain and usher undrain. Nothing else sends real-time signals:
// terminals send SIGWINCH, SIGTTIN and SIGTTOU, and service managers SIGCONT. The
// numbers are SIGRTMIN+10 and SIGRTMIN+11 of glibc.
const (
	Drain   = syscall.Signal(44)
	Undrain = syscall.Signal(45)
)

// Signals are the signals that serve handles. The kinds have separate channels, as
// a full channel drops signals: many SIGHUPs must not displace a SIGTERM. Many of
// one kind are one.
type Signals struct {
	Reload  chan os.Signal // SIGHUP
	Drain   chan os.Signal
	Undrain chan os.Signal
	List    chan os.Signal // SIGUSR1
	Upgrade chan os.Signal // SIGUSR2
	Stop    chan os.Signal // SIGTERM, SIGINT
}

// RepeatWindow is how long after the first SIGTERM or SIGINT further ones count
// as the same request. Programs such as timeout signal a process and its group,
// so that one request arrives twice.
const RepeatWindow = time.Second

// Receive begins to receive signals until Release. It ignores SIGPIPE for
// good: the death of the program that reads the log must not end this one.
func Receive() *Signals {
	signal.Ignore(syscall.SIGPIPE)
	receive := func(room int, which ...os.Signal) chan os.Signal {
		c := make(chan os.Signal, room)
		signal.Notify(c, which...)
		return c
	}
	return &Signals{
		Reload: receive(1, syscall.SIGHUP), Drain: receive(1, Drain), Undrain: receive(1, Undrain),
		List: receive(1, syscall.SIGUSR1), Upgrade: receive(1, syscall.SIGUSR2), Stop: receive(2, syscall.SIGTERM, syscall.SIGINT),
	}
}

// Release stops receiving.
func (s *Signals) Release() {
	for _, c := range []chan os.Signal{s.Reload, s.Drain, s.Undrain, s.List, s.Upgrade, s.Stop} {
		signal.Stop(c)
	}
}

// Stopping takes a signal to stop that has arrived.
func (s *Signals) Stopping() (os.Signal, bool) {
	select {
	case sig := <-s.Stop:
		return sig, true
	default:
		return nil, false
	}
}

// Later returns signals of which those that change the state are not received yet.
func (s *Signals) Later() *Signals {
	later := *s
	later.Reload, later.Drain, later.Undrain = nil, nil, nil
	return &later
}
