package serve

import (
	"cmp"
	"errors"
	"net"

	"github.com/prometheus/client_golang/prometheus"

	"usher/cmd/usher/internal/accounting"
	"usher/cmd/usher/internal/agent"
	"usher/cmd/usher/internal/counting"
	"usher/cmd/usher/internal/exit"
	"usher/cmd/usher/internal/follow"
	"usher/cmd/usher/internal/handover"
	"usher/cmd/usher/internal/inforce"
	"usher/cmd/usher/internal/listen"
	"usher/cmd/usher/internal/logging"
	"usher/cmd/usher/internal/monitor"
	"usher/cmd/usher/internal/replicas"
	"usher/cmd/usher/internal/settings"
	"usher/cmd/usher/internal/systemd"
	"usher/limiter"
	"usher/proxy"
	"usher/proxy/admin"
	"usher/proxy/admin/events"
	"usher/proxy/rules"
)

// service is a running usher: everything that start opens and stop closes. Its methods
// are called by the main loop alone, but for snapshot, weight and notifyReady.
type service struct {
	cfg        settings.Config
	log        *logging.Logs
	accounting *accounting.Accounting
	notify     *systemd.Notifier
	sockets    *handover.Sockets
	monitor    *monitor.Monitor
	policy     *inforce.Policy
	counting   *counting.Counting
	proxy      *proxy.Server

	id    string         // of this replica in the store
	socks []net.Listener // as they were opened
	loops *listen.Loops
	tasks tasks
	lists chan struct{} // see list

	replicas *replicas.Replicas // nil without a shared store
	events   *events.Hub
	drained  drained
	upgrades upgrades
}

// start checks the configuration and all files, then opens the listeners, and builds
// the parts. open serves. If start fails, it leaves nothing open. f has the rules if
// they come from the store, and is nil otherwise.
func start(cfg settings.Config, sys Streams, sockets *handover.Sockets, f *follow.Follower) (_ *service, err error) {
	s := &service{
		cfg: cfg, sockets: sockets, monitor: monitor.New(cfg), policy: inforce.New(cfg, f), loops: listen.NewLoops(), lists: make(chan struct{}, 1),
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.abandon())
		}
	}()
	policy, found, err := s.policy.First()
	if err != nil {
		return nil, err
	}
	set := policy.Rules.Settings
	addrs, source, err := s.addresses(set)
	if err != nil {
		return nil, err
	}
	if s.counting, err = counting.Open(cfg); err != nil {
		return nil, exit.Usage(err)
	}
	if s.log, err = logging.Open(cfg, set, sys.Stdout, sys.Stderr); err != nil {
		return nil, err
	}
	if s.accounting, err = accounting.Open(s.accountingOptions(sys)); err != nil {
		return nil, err
	}
	s.notify = systemd.New(s.log.Logger)
	if s.socks, err = s.sockets.Open(handover.SOCKS, addrs, listen.One); err != nil {
		return nil, err
	}
	if err = s.monitor.Open(s.sockets); err != nil {
		return nil, err
	}
	if err = s.sockets.CloseUnused(); err != nil {
		return nil, err
	}
	s.announce(policy, found, source)
	s.assemble(policy)
	return s, nil
}

// addresses returns where to listen for SOCKS clients, and what decided that.
func (s *service) addresses(set rules.Settings) (addrs []string, source string, err error) {
	if s.sockets.Given(handover.SOCKS) {
		return nil, "systemd", nil
	}
	return listen.Addresses(s.cfg, set)
}

func (s *service) accountingOptions(sys Streams) accounting.Options {
	return accounting.Options{To: s.cfg.Accounting, Replica: string(s.cfg.Replica), Stdout: sys.Stdout, Logger: s.log.Logger}
}

// abandon closes what a failed start opened.
func (s *service) abandon() error {
	all := []error{s.sockets.Close()}
	if s.counting != nil {
		all = append(all, s.counting.Close())
	}
	if s.accounting != nil {
		all = append(all, s.accounting.Close())
	}
	if s.log != nil {
		all = append(all, s.log.Close())
	}
	return errors.Join(all...)
}

// assemble builds the parts. It cannot fail.
func (s *service) assemble(policy *proxy.Policy) {
	capacity, metrics := s.cfg.Capacity(), monitor.NewRegistry(s.cfg)
	admin.CollectLogDrops(metrics, s.log.Dropped)
	admin.CollectAccountingDrops(metrics, s.accounting.Dropped)
	s.tasks = newTasks()
	s.startCounting(metrics)
	s.proxy = proxy.New(s.proxyOptions(capacity, metrics), policy)
	s.tasks.run(func() { s.proxy.GuardMemory(s.tasks.ctx) })
	s.tasks.run(s.listSessions)
	s.policy.Serve(s.proxy, policy, s.log.Logger)
	s.replicas, s.drained.requests = s.newReplicas(), make(chan drainRequest)
	s.monitor.Build(monitor.Options{
		Snapshot: s.snapshot, Registry: metrics, Weight: s.weight(capacity.Sessions), API: s.api, PeerAddress: s.peerAddress, Logger: s.log.Logger,
	})
	s.monitor.Ready.Listening()
}

func (s *service) startCounting(metrics *prometheus.Registry) {
	id, exchange := s.policy.Exchanges()
	s.id = cmp.Or(id, limiter.NewID())
	s.counting.Start(s.cfg, counting.Options{
		Logger: s.log.Logger, Observe: admin.NewStoreMetrics(metrics).Observe, ID: s.id, Exchange: exchange,
	})
	s.tasks.run(func() { s.policy.WarnOfMix(s.tasks.ctx, s.counting.Store, s.log.Logger) })
}

func (s *service) proxyOptions(capacity settings.Capacity, metrics *prometheus.Registry) proxy.Options {
	return proxy.Options{
		Replica: string(s.cfg.Replica), Limiter: s.counting.Limiter, Logger: s.log.Logger, Metrics: proxy.NewMetrics(metrics), Ended: s.accounting.Ended(),
		TrustedProxies: s.cfg.ProxyFrom,
		UDPRelayFrom:   s.cfg.UDPRelayFrom, UDPRelayClients: s.cfg.UDPRelayClients,
		UDPFollow: s.cfg.UDPFollow, UDPAdvertise: s.cfg.UDPAdvertise, UDPPorts: rules.PortRange(s.cfg.UDPPorts),
		Own:         s.monitor.Addresses(),
		MaxSessions: capacity.Sessions, MaxBuffered: capacity.Buffered, MaxNegotiating: capacity.Negotiating, MaxLookups: capacity.Lookups, MaxPipes: capacity.Pipes,
		MaxAuthFailures: s.cfg.AuthFailures,
		BindTimeout:     s.cfg.BindTimeout,
	}
}

// open serves all listeners. A drained process has none for clients.
func (s *service) open() {
	s.monitor.Serve(s.loops, s.log.Logger)
	if s.replicas != nil { // not before: until now, the process before may have answered at this address
		s.tasks.run(func() { s.replicas.Run(s.tasks.ctx) })
	}
	if s.drained.on {
		return
	}
	for _, ln := range s.socks {
		s.loops.Run(ln, s.proxy.Serve)
	}
}

// snapshot returns what the admin listener shows.
func (s *service) snapshot() admin.Snapshot {
	st := s.counting.Limiter.Status()
	now := admin.Snapshot{
		Sessions: s.proxy.Sessions(), Rules: s.policy.Show(st), Store: admin.StoreOf(s.cfg.Store.String(), st),
		Listen: s.sockets.Addresses(handover.SOCKS), Upgrade: s.upgrades.last.Show(), Undrain: s.drained.undrain.Show(),
	}
	now.Store.Failure, now.Store.FailingSince = s.counting.Trouble()
	return now
}

// weight returns what tells the share of the capacity that is free, in per cent.
func (s *service) weight(maxSessions int) func() int {
	return func() int {
		descriptors := s.cfg.Capacity().Descriptors // may have been changed from outside
		return min(agent.Weight(agent.Descriptors(descriptors), descriptors), agent.Weight(s.proxy.Places(), maxSessions))
	}
}
