// Package monitor answers health checks and requests for status and metrics on the
// admin listener, and HAProxy's agent checks on the agent listener.
package monitor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"usher/cmd/usher/internal/agent"
	"usher/cmd/usher/internal/build"
	"usher/cmd/usher/internal/handover"
	"usher/cmd/usher/internal/listen"
	"usher/cmd/usher/internal/settings"
	"usher/proxy/admin"
	"usher/proxy/admin/access"
	"usher/proxy/selfaddr"
)

// Options say what a Monitor answers. All fields but API and PeerAddress are required. The functions are called
// concurrently.
type Options struct {
	Snapshot func() admin.Snapshot // what this package does not know itself
	Registry *prometheus.Registry
	Weight   func() int // for agent checks, see agent.Options
	// API returns what answers the paths of the API. It may use status for requests. nil:
	// there are no rules to tell about yet.
	API func(status func() admin.Status) *admin.API
	// PeerAddress returns where other replicas reach the admin listener. nil: nowhere.
	PeerAddress func() string
	Logger      *slog.Logger
}

// Monitor has the admin and the agent listener. After Build it is safe for concurrent
// use.
type Monitor struct {
	Ready *admin.Readiness // what it answers to health checks

	cfg            settings.Config
	started        time.Time
	admins, agents []net.Listener
	admin          *admin.Server
	agent          *agent.Server
}

// New returns the Monitor of a process that starts now.
func New(cfg settings.Config) *Monitor {
	now := time.Now()
	return &Monitor{cfg: cfg, started: now, Ready: admin.NewReadiness(now, cfg.LeaseTTL)}
}

// Open opens the listeners of USHER_ADMIN_LISTEN and USHER_AGENT_LISTEN. They belong to
// sockets, also if it returns an error.
func (m *Monitor) Open(sockets *handover.Sockets) (failed error) {
	open := func(role handover.Role, variable string, addr settings.AdminAddr) []net.Listener {
		var addrs []string
		if addr != "" {
			addrs = []string{string(addr)}
		}
		lns, err := sockets.Open(role, addrs, listen.One)
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("%s: %w", variable, err))
		}
		return lns
	}
	m.admins = open(handover.Admin, "USHER_ADMIN_LISTEN", m.cfg.AdminListen)
	m.agents = open(handover.Agent, "USHER_AGENT_LISTEN", m.cfg.AgentListen)
	return failed
}

// NewRegistry returns the metrics of this process, to which its parts add theirs.
func NewRegistry(cfg settings.Config) *prometheus.Registry {
	return admin.NewRegistry(build.This().Version, runtime.Version(), string(cfg.Replica))
}

// Listeners returns the addresses at which the admin listener was opened.
func (m *Monitor) Listeners() (list []net.Addr) {
	for _, ln := range m.admins {
		list = append(list, ln.Addr())
	}
	return list
}

// Addresses returns the addresses of the listeners.
func (m *Monitor) Addresses() (list []netip.AddrPort) {
	for _, ln := range slices.Concat(m.admins, m.agents) {
		list = append(list, selfaddr.OfListener(ln)...)
	}
	return list
}

// Build sets the answers. It is called once, after Open and before Serve.
func (m *Monitor) Build(o Options) {
	snapshot := func() admin.Snapshot {
		now := o.Snapshot()
		now.Version, now.Replica, now.PID, now.Started = build.This().Version, string(m.cfg.Replica), os.Getpid(), m.started
		return now
	}
	admin.CollectSnapshot(o.Registry, snapshot)
	var answers *admin.API
	if o.API != nil {
		answers = o.API(func() admin.Status { return m.admin.Status() })
	}
	m.admin = admin.New(admin.Options{
		Readiness: m.Ready, Snapshot: snapshot, Gatherer: o.Registry, Names: names(m.cfg), Logger: o.Logger,
		API: answers, Profiles: m.cfg.AdminPprof == "on",
		Guard: &access.Guard{Token: m.cfg.Token(), Address: o.PeerAddress, Logger: o.Logger},
	})
	m.agent = agent.New(agent.Options{Unready: m.admin.Unready, Weight: o.Weight})
}

// names returns the names under which the admin listener may be asked: those of the
// machine, and those that are set.
func names(cfg settings.Config) []string {
	list := slices.Clone(cfg.AdminHosts)
	if host, _, err := net.SplitHostPort(string(cfg.AdminAdvertise)); err == nil {
		list = append(list, host)
	}
	if name, err := os.Hostname(); err == nil {
		short, _, _ := strings.Cut(name, ".")
		list = append(list, name, short)
	}
	return list
}

// Unready returns why balancers should send no clients here, "" if they should.
func (m *Monitor) Unready() string { return m.admin.Unready() }

// Serve answers on all listeners, in loops.
func (m *Monitor) Serve(loops *listen.Loops, log *slog.Logger) {
	for _, ln := range m.admins {
		log.Info("admin listener open", "address", ln.Addr().String())
		loops.Run(ln, m.admin.Serve)
	}
	for _, ln := range m.agents {
		log.Info("agent listener open", "address", ln.Addr().String())
		loops.Run(ln, m.agent.Serve)
	}
}

// Close closes the listeners and lets requests end until ctx ends. It may be called
// again.
func (m *Monitor) Close(ctx context.Context) error {
	return errors.Join(m.agent.Close(), m.admin.Shutdown(ctx))
}
