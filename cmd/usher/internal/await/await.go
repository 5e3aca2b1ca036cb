// Package await starts a process whose rules come from the store: it waits until there
// are rules.
package await

import (
	"cmp"
	"context"
	"errors"
	"io"
	"os"
	"sync"
	"time"

	"usher/cmd/usher/internal/exit"
	"usher/cmd/usher/internal/follow"
	"usher/cmd/usher/internal/handover"
	"usher/cmd/usher/internal/inforce"
	"usher/cmd/usher/internal/listen"
	"usher/cmd/usher/internal/logging"
	"usher/cmd/usher/internal/monitor"
	"usher/cmd/usher/internal/settings"
	"usher/cmd/usher/internal/signals"
	"usher/cmd/usher/internal/stores"
	"usher/cmd/usher/internal/systemd"
	"usher/limiter"
	"usher/proxy/admin"
	"usher/proxy/printable"
	"usher/proxy/rules"
	"usher/store/published"
	"usher/store/redisstore"
)

// Process is what a process has before there are rules.
type Process struct {
	Config         settings.Config
	Stdout, Stderr io.Writer // where the log goes
	Sockets        *handover.Sockets
	Parent         *handover.Parent // serves as long as this process waits; nil: there is none
	Signals        *signals.Signals
}

// trial is what follows until there are rules: it only tries whether they can be loaded.
type trial struct{ cfg settings.Config }

var _ follow.Target = trial{}

// Load implements follow.Target.
func (t trial) Load(text published.Text) error {
	_, _, err := inforce.LoadPublished(t.cfg, text)
	return err
}

// Refused implements follow.Target.
func (trial) Refused(uint64, error) {}

// Hold implements follow.Target.
func (trial) Hold() (release func()) { return func() {} }

// Sessions implements follow.Target.
func (trial) Sessions() map[uint64]int { return nil }

// Found is the end of the wait.
type Found struct {
	Follower *follow.Follower // has rules; nil: the process was told to end before there were any
	Drained  bool             // the process is to take no clients until undrain
}

// Rules waits until there are rules, or the process is told to end. For a moment it only asks the store. Then it uses the cache.
// Then it opens the admin listener, is not ready, and says why.
func Rules(ctx context.Context, p Process) (Found, error) {
	cfg := p.Config
	keys, err := follow.Keys(cfg.RuleKey)
	if err != nil {
		return Found{}, exit.Usage(err)
	}
	st, err := stores.Open(cfg)
	if err != nil {
		return Found{}, exit.Usage(err)
	}
	defer st.Close()
	log, err := logging.Open(cfg, rules.Settings{}, p.Stdout, p.Stderr)
	if err != nil {
		return Found{}, err
	}
	defer log.Close()
	w := &waiting{
		Process: p, log: log, store: st.(*redisstore.Store), // the settings demand a Redis
		monitor: monitor.New(cfg), loops: listen.NewLoops(), notify: systemd.New(log.Logger),
	}
	w.follower = follow.New(follow.Options{
		Replica: limiter.NewID(), Name: string(cfg.Replica), Cluster: string(cfg.Cluster), TTL: cfg.LeaseTTL, Keys: keys, Cache: cfg.RuleCache,
	}, trial{cfg}, log.Logger)
	defer w.notifyStarting()()
	if w.soon(ctx) {
		return Found{Follower: w.follower}, nil
	}
	found, err := w.wait(ctx)
	if err != nil || !found {
		return Found{}, err
	}
	return Found{w.follower, w.drained}, nil
}

// closeTimeout bounds how long running requests to the admin listener may take when there
// are rules.
const closeTimeout = 5 * time.Second

// waiting is a process that has no rules yet.
type waiting struct {
	Process
	log      *logging.Logs
	store    *redisstore.Store
	follower *follow.Follower
	monitor  *monitor.Monitor
	loops    *listen.Loops
	notify   *systemd.Notifier

	drained          bool // of the main loop
	upgrade, undrain monitor.Request

	mu  sync.Mutex
	why string // there are no rules, as logged last
}

// soon asks the store for about as long as it may take to connect twice, and then
// uses the cache. It reports whether there are rules.
func (w *waiting) soon(ctx context.Context) bool {
	bounded, cancel := context.WithTimeout(ctx, 2*w.Config.LeaseTTL/5)
	defer cancel()
	why := ""
	if w.follower.First(bounded, w.store.Published, func(reason string) {
		if why = reason; !w.follower.MayFindSooner() {
			cancel()
		}
	}) {
		return true
	}
	w.follower.Wait()
	w.follower.UseCache()
	if n := w.follower.InForce().Number; n != 0 {
		w.log.Warn("starting with cached rules", "number", n, "cause", printable.Text(why))
		return true
	}
	w.missing(why)
	return false
}

// notifyStarting tells systemd why there are no rules, until the returned function is
// called. Beside another process that serves, it tells nothing.
func (w *waiting) notifyStarting() (end func()) {
	if w.Parent != nil || !systemd.Listens() {
		return func() {}
	}
	done := make(chan struct{})
	var telling sync.WaitGroup
	telling.Go(func() {
		w.notify.Starting(func() string {
			w.mu.Lock()
			defer w.mu.Unlock()
			return cmp.Or(w.why, "asking the store for published rules")
		}, done)
	})
	return func() {
		close(done)
		telling.Wait()
	}
}

// missing shows why there are no rules, and logs it if it is new.
func (w *waiting) missing(why string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	why = printable.Text(why)
	w.monitor.Ready.Missing(why)
	w.Parent.Say(why)
	if why != w.why {
		w.why = why
		w.log.Warn("waiting for published rules", "reason", why, "effect", "no SOCKS listener is open and this replica is not ready")
	}
}

// wait serves health checks until there are rules. It reports whether there are:
// otherwise the process was told to end.
func (w *waiting) wait(ctx context.Context) (found bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	closeListeners, err := w.listen()
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, closeListeners()) }()
	result := make(chan bool, 1)
	go func() { result <- w.follower.First(ctx, w.store.Published, w.missing) }()
	defer w.follower.Wait()
	control := w.control()
	for {
		select {
		case found := <-result:
			return found, nil
		case err := <-w.loops.Broken():
			cancel()
			return false, errors.Join(err, ended(<-result))
		case sig := <-control.Stop:
			w.stopping(sig)
			cancel()
			<-result
			return false, nil
		case <-control.Reload:
			if err := w.follower.Retry(); err != nil {
				w.log.Error("reload failed", "error", printable.Lines(err.Error()))
			}
		case <-control.Drain:
			w.setDrained(true)
		case <-control.Undrain:
			w.setDrained(false)
		case <-control.Upgrade:
			w.refuseUpgrade()
		}
	}
}

// control returns the signals that this process handles while it waits. Beside another
// process that serves, it leaves drain and upgrade for later.
func (w *waiting) control() signals.Signals {
	now := *w.Signals
	if w.Parent != nil {
		now.Drain, now.Undrain, now.Upgrade = nil, nil, nil
	}
	return now
}

func (w *waiting) stopping(sig os.Signal) {
	if w.Parent == nil {
		w.notify.Stopping()
	}
	w.log.Info("stopped", "why", sig.String(), "cut", 0)
}

// setDrained is at once: there are no clients. The process stays drained when there are
// rules.
func (w *waiting) setDrained(drained bool) {
	if drained == w.drained {
		return
	}
	w.drained = drained
	if !drained {
		w.undrain.Begin()
		defer w.undrain.End(nil)
	}
	w.monitor.Ready.Drained(drained)
	if drained {
		w.log.Info("drained, no new sessions", "sessions", 0)
	} else {
		w.log.Info("undrained, still waiting for published rules")
	}
}

// refuseUpgrade says why this process is not replaced.
func (w *waiting) refuseUpgrade() {
	w.upgrade.Begin()
	err := errors.New("the process waits for published rules; it has no sessions, so restart it instead")
	w.upgrade.End(err)
	w.log.Error("upgrade refused", "error", err.Error())
}

// ended makes a function that stops something one that returns no error. It ignores
// whether there was anything to stop.
func ended(bool) error { return nil }

// listen opens the admin and agent listeners, unless another process answers there.
func (w *waiting) listen() (closeAll func() error, err error) {
	if w.Parent != nil {
		return func() error { return nil }, nil
	}
	if err := w.monitor.Open(w.Sockets); err != nil {
		return nil, err
	}
	w.monitor.Build(monitor.Options{
		Snapshot: w.snapshot, Registry: monitor.NewRegistry(w.Config), Weight: func() int { return 0 }, Logger: w.log.Logger,
	})
	w.monitor.Serve(w.loops, w.log.Logger)
	return func() error {
		leaving, cancel := context.WithTimeout(context.Background(), closeTimeout)
		defer cancel()
		err := errors.Join(w.monitor.Close(leaving), w.Sockets.Suspend(handover.Admin), w.Sockets.Suspend(handover.Agent))
		w.loops.Wait()
		return err
	}, nil
}

func (w *waiting) snapshot() admin.Snapshot {
	w.mu.Lock()
	why := w.why
	w.mu.Unlock()
	return admin.Snapshot{
		Rules:   admin.Rules{File: settings.FromStore, ReloadErr: why, Limits: []admin.RuleLimit{}, Published: inforce.ShowPublished(w.follower)},
		Store:   admin.Store{Address: w.Config.Store.String()},
		Upgrade: w.upgrade.Show(), Undrain: w.undrain.Show(),
	}
}
