package serve

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

// notifier tells systemd about the state of the service, see sd_notify(3). Where
// nobody listens (NOTIFY_SOCKET), it does nothing.
type notifier struct {
	log  *slog.Logger
	gone atomic.Bool // another process is the main one now
}

func (n *notifier) tell(state ...string) {
	socket := os.Getenv("NOTIFY_SOCKET")
	if socket == "" || n.gone.Load() {
		return
	}
	if err := send(socket, strings.Join(state, "\n")); err != nil {
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

// reloading must be followed by READY=1, also if nothing has changed.
func (n *notifier) reloading() {
	n.tell(daemon.SdNotifyReloading, strings.TrimSuffix(daemon.SdNotifyMonotonicUsec(), "\n"))
}

// handedOver makes another process the main one of the service. Systemd believes only
// the main process, so it is the old one that says so.
func (n *notifier) handedOver(pid int) {
	n.tell(fmt.Sprintf("MAINPID=%d", pid), daemon.SdNotifyReady)
	n.gone.Store(true)
}

func (n *notifier) alive() { n.tell(daemon.SdNotifyWatchdog) }

// watchdog returns a ticker for alive, which never ticks if systemd does not ask for it
// (WatchdogSec=).
func (n *notifier) watchdog() *time.Ticker {
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

// notifyReady tells systemd once that the process is ready.
func (s *service) notifyReady() {
	if os.Getenv("NOTIFY_SOCKET") == "" {
		return
	}
	tick := time.NewTicker(readyPoll)
	defer tick.Stop()
	for s.admin.Unready() != "" {
		select {
		case <-tick.C:
		case <-s.unwatched:
			return
		}
	}
	s.notify.tell(daemon.SdNotifyReady)
}
