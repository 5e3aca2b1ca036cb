package main

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
	drainSignal   = syscall.Signal(44)
	undrainSignal = syscall.Signal(45)
)

// signals are the signals that serve handles. The kinds have separate channels, as
// a full channel drops signals: many SIGHUPs must not displace a SIGTERM. Many of
// one kind are one.
type signals struct {
	reload  chan os.Signal // SIGHUP
	drain   chan os.Signal
	undrain chan os.Signal
	upgrade chan os.Signal // SIGUSR2
	stop    chan os.Signal // SIGTERM, SIGINT
}

// repeatWindow is how long after the first SIGTERM or SIGINT further ones count
// as the same request. Programs such as timeout signal a process and its group,
// so that one request arrives twice.
const repeatWindow = time.Second

// notifySignals begins to receive signals until release. It ignores SIGPIPE for
// good: the death of the program that reads the log must not end this one.
func notifySignals() signals {
	signal.Ignore(syscall.SIGPIPE)
	receive := func(room int, which ...os.Signal) chan os.Signal {
		c := make(chan os.Signal, room)
		signal.Notify(c, which...)
		return c
	}
	return signals{
		reload: receive(1, syscall.SIGHUP), drain: receive(1, drainSignal), undrain: receive(1, undrainSignal),
		upgrade: receive(1, syscall.SIGUSR2), stop: receive(2, syscall.SIGTERM, syscall.SIGINT),
	}
}

func (s signals) release() {
	for _, c := range []chan os.Signal{s.reload, s.drain, s.undrain, s.upgrade, s.stop} {
		signal.Stop(c)
	}
}

// stopping takes a signal to stop that has arrived.
func (s signals) stopping() (os.Signal, bool) {
	select {
	case sig := <-s.stop:
		return sig, true
	default:
		return nil, false
	}
}

// later returns signals of which those that change the state are not received yet.
func (s signals) later() signals {
	s.reload, s.drain, s.undrain = nil, nil, nil
	return s
}
