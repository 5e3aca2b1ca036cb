// Package systemd tells systemd about the state of the service, see sd_notify(3).
package systemd

import (
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// Notifier sends notifications. Where nobody listens (NOTIFY_SOCKET), it does nothing.
// If a notification cannot be sent, it logs a warning. Its methods are safe for
// concurrent use.
type Notifier struct {
	log  *slog.Logger
	gone atomic.Bool // another process is the main one now
}

// New returns a Notifier that logs to log.
func New(log *slog.Logger) *Notifier { return &Notifier{log: log} }

// Listens reports whether somebody listens to notifications.
func Listens() bool { return os.Getenv("NOTIFY_SOCKET") != "" }

func (n *Notifier) tell(state ...string) {
	if !Listens() || n.gone.Load() {
		return
	}
	if err := send(os.Getenv("NOTIFY_SOCKET"), strings.Join(state, "\n")); err != nil {
		n.log.Warn("cannot notify systemd", "error", err.Error())
	}
}

// send is daemon.SdNotify, which would wait forever for a reader that is stalled.
func send(socket, message string) error {
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetWriteDeadline(time.Now().Add(time.Second)); err != nil {
		return err
	}
	_, err = conn.Write([]byte(message))
	return err
}

// Ready says that the service has finished to reload.
func (n *Notifier) Ready() { n.tell(daemon.SdNotifyReady) }

// A service that waits asks systemd for more time again and again: otherwise
// TimeoutStartSec= would end it. Systemd ends a service of which it has heard nothing
// for morePatience.
const (
	statePoll    = 20 * time.Millisecond
	askPatience  = 10 * time.Second
	morePatience = time.Minute
)

// Starting says in one line why the service is not ready, and asks systemd to wait, until
// why returns "" or done is closed. It reports whether why has returned "".
func (n *Notifier) Starting(why func() string, done <-chan struct{}) (ready bool) {
	tick := time.NewTicker(statePoll)
	defer tick.Stop()
	told, since := "", time.Time{}
	for {
		now := why()
		if now == "" {
			return true
		}
		if now != told || time.Since(since) >= askPatience {
			told, since = now, time.Now()
			n.tell("STATUS="+now, fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d", morePatience.Microseconds()))
		}
		select {
		case <-tick.C:
		case <-done:
			return false
		}
	}
}

// Started is Ready after Starting.
func (n *Notifier) Started() { n.tell("STATUS=ready", daemon.SdNotifyReady) }

// Reloading must be followed by Ready, also if nothing has changed.
func (n *Notifier) Reloading() {
	n.tell(daemon.SdNotifyReloading, strings.TrimSuffix(daemon.SdNotifyMonotonicUsec(), "\n"))
}

// Stopping says that the service is about to end.
func (n *Notifier) Stopping() { n.tell(daemon.SdNotifyStopping) }

// HandedOver makes another process the main one of the service. Systemd believes only
// the main process, so it is the old one that says so. Later notifications of this one
// are not sent.
func (n *Notifier) HandedOver(pid int) {
	n.tell(fmt.Sprintf("MAINPID=%d", pid), daemon.SdNotifyReady)
	n.gone.Store(true)
}

// Alive answers the watchdog.
func (n *Notifier) Alive() { n.tell(daemon.SdNotifyWatchdog) }

// Watchdog returns a ticker for Alive, which never ticks if systemd does not ask for it
// (WatchdogSec=).
func (n *Notifier) Watchdog() *time.Ticker {
	interval, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		n.log.Warn("cannot answer the watchdog of systemd", "error", err.Error())
	}
	if err != nil || interval <= 0 {
		never := time.NewTicker(time.Hour)
		never.Stop()
		return never
	}
	// A process that takes over has another number, and answers as well.
	_ = os.Unsetenv("WATCHDOG_PID")
	return time.NewTicker(interval / 2)
}
