package serve

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"usher/cmd/usher/internal/agent"
	"usher/cmd/usher/internal/build"
	"usher/cmd/usher/internal/exit"
	"usher/cmd/usher/internal/follow"
	"usher/cmd/usher/internal/handover"
	"usher/cmd/usher/internal/listen"
	"usher/cmd/usher/internal/logging"
	"usher/cmd/usher/internal/policyfile"
	"usher/cmd/usher/internal/settings"
	"usher/cmd/usher/internal/stores"
	"usher/cmd/usher/internal/storewatch"
	"usher/limiter"
	"usher/proxy"
	"usher/proxy/admin"
	"usher/proxy/rules"
	"usher/proxy/selfaddr"
	"usher/store"
	"usher/store/redisstore"
)

// leaveTimeout bounds how long a stopping process waits for the store to free its
// slots. After that, they are freed when the lease ends.
const leaveTimeout = 5 * time.Second

// service is a running usher: everything that start opens and stop closes.
type service struct {
	cfg                   settings.Config
	started               time.Time
	log                   *logging.Logs
	history               history
	ready                 *admin.Readiness
	store                 store.Store
	limiter               *limiter.Limiter
	proxy                 *proxy.Server
	admin                 *admin.Server
	agent                 *agent.Server
	sockets               *handover.Sockets
	notify                notifier
	socks, admins, agents []net.Listener // as they were opened
	broken                chan error     // the failure of a listener
	serving               sync.WaitGroup // listeners, the store watch, and lints

	cancelLint context.CancelFunc // ends the last lint of a policy
	lintMu     sync.Mutex         // held by the lint that runs

	watch     *storewatch.Watch
	unwatch   context.CancelFunc
	unwatched <-chan struct{} // closed by unwatch

	drained  drained
	upgrades upgrades

	follower  *follow.Follower // nil unless the rules come from the store
	assembled chan struct{}    // closed when all parts are there
	loading   sync.Mutex       // held while the policy is replaced
}

// start checks the configuration and all files, then opens the listeners, and builds
// the parts. open serves. If start fails, it leaves nothing open. f has the rules if
// they come from the store, and is nil otherwise.
func start(cfg settings.Config, sys Streams, sockets *handover.Sockets, f *follow.Follower) (_ *service, err error) {
	s := &service{
		cfg: cfg, sockets: sockets, started: time.Now(), broken: make(chan error, 8), cancelLint: func() {},
		follower: f, assembled: make(chan struct{}),
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.abandon())
		}
	}()
	policy, found, err := s.loadPolicy()
	if err != nil {
		return nil, err
	}
	set := policy.Rules.Settings
	addrs, source, err := s.addresses(set)
	if err != nil {
		return nil, err
	}
	if s.store, err = stores.Open(cfg); err != nil {
		return nil, exit.Usage(err)
	}
	if s.log, err = logging.Open(cfg, set, sys.Stdout, sys.Stderr); err != nil {
		return nil, err
	}
	s.notify.log = s.log.Logger
	if s.socks, err = s.sockets.Open(handover.SOCKS, addrs, listen.One); err != nil {
		return nil, err
	}
	if s.admins, s.agents, err = adminListeners(cfg, s.sockets); err != nil {
		return nil, err
	}
	if err = s.sockets.CloseUnused(); err != nil {
		return nil, err
	}
	s.announce(policy, found, source)
	s.loading.Lock() // what is published may replace the policy as soon as all is assembled
	defer s.loading.Unlock()
	s.assemble(policy)
	s.startLint(policy)
	return s, nil
}

// addresses returns where to listen for SOCKS clients, and what decided that.
func (s *service) addresses(set rules.Settings) (addrs []string, source string, err error) {
	if s.sockets.Given(handover.SOCKS) {
		return nil, "systemd", nil
	}
	return listen.Addresses(s.cfg, set)
}

// adminListeners opens the admin and agent listeners.
func adminListeners(cfg settings.Config, sockets *handover.Sockets) (admins, agents []net.Listener, err error) {
	optional := func(role handover.Role, variable string, addr settings.AdminAddr) (lns []net.Listener) {
		var addrs []string
		if addr != "" {
			addrs = []string{string(addr)}
		}
		lns, failed := sockets.Open(role, addrs, listen.One)
		if failed != nil {
			err = errors.Join(err, fmt.Errorf("%s: %w", variable, failed))
		}
		return lns
	}
	admins = optional(handover.Admin, "USHER_ADMIN_LISTEN", cfg.AdminListen)
	agents = optional(handover.Agent, "USHER_AGENT_LISTEN", cfg.AgentListen)
	return admins, agents, err
}

// assemble builds the parts. It cannot fail.
func (s *service) assemble(policy *proxy.Policy) {
	reg := admin.NewRegistry(build.This().Version, runtime.Version(), string(s.cfg.Replica))
	s.history.use(policy.Rules)
	s.ready = admin.NewReadiness(s.started, s.cfg.LeaseTTL)
	s.watch = storewatch.New(s.log.Logger, s.cfg)
	redis.SetLogger(storewatch.RedisLog{Logger: s.log.Logger})
	measure := admin.NewStoreMetrics(reg)
	counting := limiter.Options{
		Store: s.store, TTL: s.cfg.LeaseTTL, Strict: s.cfg.LeaseLoss == "close", StoreWait: s.cfg.StoreWait,
		AdmitLocally: s.cfg.StoreDown == "admit",
		MaxKeys:      int64(s.cfg.ThrottleKeys),
		Observe: func(op string, took time.Duration, err error) {
			measure.Observe(op, took, err)
			s.watch.Observe(op, took, err)
		},
	}
	if s.follower != nil {
		counting.ID, counting.Exchange = s.follower.Replica(), s.exchange
	}
	s.limiter = limiter.New(counting)
	s.watchStore()
	capacity := s.cfg.Capacity()
	var own []netip.AddrPort
	for _, ln := range slices.Concat(s.admins, s.agents) {
		own = append(own, selfaddr.OfListener(ln)...)
	}
	s.proxy = proxy.New(proxy.Options{
		Limiter: s.limiter, Logger: s.log.Logger, Metrics: proxy.NewMetrics(reg),
		TrustedProxies: s.cfg.ProxyFrom,
		UDPRelayFrom:   s.cfg.UDPRelayFrom, UDPRelayClients: s.cfg.UDPRelayClients,
		UDPFollow: s.cfg.UDPFollow, UDPAdvertise: s.cfg.UDPAdvertise, UDPPorts: rules.PortRange(s.cfg.UDPPorts),
		Own:         own,
		MaxSessions: capacity.Sessions, MaxNegotiating: capacity.Negotiating, MaxLookups: capacity.Lookups, MaxPipes: capacity.Pipes,
		MaxAuthFailures: s.cfg.AuthFailures,
		BindTimeout:     s.cfg.BindTimeout,
	}, policy)
	if s.follower != nil {
		s.follower.Serve(following{s}, s.log.Logger)
	}
	close(s.assembled)
	admin.CollectSnapshot(reg, s.snapshot)
	admin.CollectLogDrops(reg, s.log.Dropped)
	s.admin = admin.New(admin.Options{Readiness: s.ready, Snapshot: s.snapshot, Gatherer: reg, Names: adminNames(s.cfg), Logger: s.log.Logger})
	s.agent = agent.New(agent.Options{Unready: s.admin.Unready, Weight: func() int {
		descriptors := s.cfg.Capacity().Descriptors // may have been changed from outside
		return min(agent.Weight(agent.Descriptors(descriptors), descriptors), agent.Weight(s.proxy.Places(), capacity.Sessions))
	}})
	s.ready.Listening()
}

// open serves all listeners.
func (s *service) open() {
	for _, ln := range s.admins {
		s.log.Info("admin listener open", "address", ln.Addr().String())
		s.serve(ln, s.admin.Serve)
	}
	for _, ln := range s.agents {
		s.log.Info("agent listener open", "address", ln.Addr().String())
		s.serve(ln, s.agent.Serve)
	}
	for _, ln := range s.socks {
		s.serve(ln, s.proxy.Serve)
	}
}

// adminNames returns the names under which the admin listener may be asked: those of
// the machine, and those that are set.
func adminNames(cfg settings.Config) []string {
	names := slices.Clone(cfg.AdminHosts)
	if name, err := os.Hostname(); err == nil {
		short, _, _ := strings.Cut(name, ".")
		names = append(names, name, short)
	}
	return names
}

// serve runs a listener until it is closed.
func (s *service) serve(ln net.Listener, serve func(net.Listener) error) {
	s.serving.Go(func() {
		if err := serve(ln); err != nil {
			select {
			case s.broken <- err:
			default: // the first failure ends the process
			}
		}
	})
}

// announce writes the first lines of the log: what this process does, and which
// setting changes that.
func (s *service) announce(policy *proxy.Policy, found []rules.Diagnostic, source string) {
	capacity := s.cfg.Capacity()
	s.log.Info("usher starts", "version", build.This().Version, "process", os.Getpid(), "commit", build.This().Commit, "go", runtime.Version(),
		"descriptors", capacity.Descriptors, "memory_mib", capacity.Memory>>20, "max_sessions", capacity.Sessions, "max_negotiating", capacity.Negotiating,
		"stalled_session_kib", capacity.Stalled>>10)
	if needed := capacity.Needed(); needed > capacity.Descriptors {
		s.log.Warn("USHER_MAX_SESSIONS needs more descriptors than the process may open",
			"needed", needed, "descriptors", capacity.Descriptors, "remedy", "raise the limit of open files, or lower USHER_MAX_SESSIONS")
	}
	logging.Findings(s.log.Logger, found)
	if s.cfg.RuleFile == "" {
		s.log.Info("no rule file, using built-in rules", "effect", "clients on loopback addresses may connect anywhere, other clients may not connect",
			"to_change", "set USHER_CONFIG to a rule file")
	}
	if s.cfg.Published() && s.cfg.RuleKey == "" {
		s.log.Info("rules come from the store and need no signature", "effect", "anybody who can write to Redis can replace them",
			"to_change", "set USHER_CONFIG_KEY on all replicas, and publish with usher apply --key")
	}
	s.log.Info("rules loaded", s.describe(policy, s.ruleName())...)
	if s.cfg.Store == settings.Memory {
		s.log.Info("counting sessions in memory", "effect", "limits hold for this process only",
			"to_change", "set USHER_STORE=redis://host:port/0 on all replicas")
	} else {
		s.log.Info("counting sessions in a shared store", "effect", "limits hold across all replicas of the cluster", "store", s.cfg.Store.String(), "cluster", string(s.cfg.Cluster), "lease_ttl", s.cfg.LeaseTTL.String(), "lease_loss", s.cfg.LeaseLoss)
	}
	if st, ok := s.store.(*redisstore.Store); ok {
		for _, w := range st.Warnings() {
			s.log.Warn("the connection to the store is insecure", "finding", w)
		}
	}
	if internal := policy.Rules.Settings.Internal; s.cfg.ListenSet && len(internal) > 0 {
		s.log.Warn("USHER_LISTEN overrides internal: in the rule file", "internal", internal[0].Pos.String())
	}
	for _, ln := range s.socks {
		s.log.Info("listening for SOCKS clients", "address", ln.Addr().String(), "decided_by", source,
			"to_change", "set USHER_LISTEN, or internal: in the rule file")
	}
}

// describe returns log attributes that sum up a policy.
func (s *service) describe(policy *proxy.Policy, name string) []any {
	cfg := s.cfg
	attrs := []any{"file", name, "client_rules", len(policy.Rules.Client), "socks_rules", len(policy.Rules.Socks),
		"limited", len(policyfile.Limited(policy.Rules)), "digest", policy.Rules.Digest()}
	if cfg.UsersFile != "" {
		attrs = append(attrs, "users_file", cfg.UsersFile)
	}
	if cfg.GroupsFile != "" {
		attrs = append(attrs, "groups_file", cfg.GroupsFile)
	}
	if len(policy.Rules.Settings.Methods) == 0 { // the rule file does not set it
		method := "none"
		if cfg.UsersFile != "" {
			method = "username"
		}
		attrs = append(attrs, "socksmethod", method+" (assumed)")
	}
	return attrs
}

// snapshot returns what the admin listener shows.
func (s *service) snapshot() admin.Snapshot {
	st := s.limiter.Status()
	now := admin.Snapshot{
		Version: build.This().Version, Replica: string(s.cfg.Replica), PID: os.Getpid(), Started: s.started, Sessions: s.proxy.Sessions(),
		Rules: showRules(s.ruleName(), s.proxy.Generations(), st), Store: admin.StoreOf(s.cfg.Store.String(), st),
	}
	now.Store.Failure, now.Store.FailingSince = s.watch.Trouble()
	s.history.show(&now.Rules)
	now.Rules.Published = showPublished(s.follower)
	now.Listen = s.sockets.Addresses(handover.SOCKS)
	now.Upgrade, now.Undrain = s.upgrades.last.show(), s.drained.undrain.show()
	return now
}

// stop drains: it reports not ready, waits for the grace, closes the listeners,
// waits for sessions, cuts the rest and frees the slots. When ctx ends, every wait
// ends.
func (s *service) stop(ctx context.Context) error {
	s.ready.Draining()
	s.endLint()
	select {
	case <-time.After(s.cfg.DrainGrace):
	case <-ctx.Done():
	}
	return s.finish(ctx)
}

// finish is stop after the grace.
func (s *service) finish(ctx context.Context) error {
	if err := s.proxy.CloseListeners(); err != nil {
		s.log.Warn("cannot close a listener", "error", err.Error())
	}
	patience, cancel := context.WithTimeout(ctx, s.cfg.DrainTimeout)
	defer cancel()
	cut := s.proxy.Drain(patience)

	leaving, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveTimeout)
	defer cancel()
	s.watch.Leave()
	if err := s.limiter.Close(leaving); err != nil {
		s.log.Warn("cannot leave the store", "error", err.Error(), "effect", "slots are freed when the lease ends")
	}
	s.leavePublished(leaving)
	s.endLint() // rules may have been loaded meanwhile
	s.unwatch()
	err := errors.Join(s.agent.Close(), s.admin.Shutdown(leaving), s.sockets.Close(), s.store.Close())
	s.serving.Wait()
	s.log.Info("stopped", describeCut(cut)...)
	return errors.Join(err, s.log.Close())
}

// describeCut returns log attributes about the sessions that a drain has cut.
func describeCut(cut proxy.Cut) []any {
	attrs := []any{"cut", cut.Sessions}
	if cut.Sessions > 0 {
		attrs = append(attrs, "cut_by_rule", cut.By(), "longest_session", cut.Oldest, "longest_seconds", cut.Longest.Seconds())
	}
	return attrs
}

// abandon closes what a failed start opened.
func (s *service) abandon() error {
	all := []error{s.sockets.Close()}
	if s.store != nil {
		all = append(all, s.store.Close())
	}
	if s.log != nil {
		all = append(all, s.log.Close())
	}
	return errors.Join(all...)
}

// watchStore watches a shared store; the memory store cannot fail.
func (s *service) watchStore() {
	ctx, cancel := context.WithCancel(context.Background())
	s.unwatch, s.unwatched = cancel, ctx.Done()
	if s.cfg.Store == settings.Memory {
		return
	}
	s.serving.Go(func() { s.watch.Run(ctx, s.limiter.Status) })
	s.serving.Go(func() { s.warnOfMix(ctx) })
	if c, ok := s.store.(interface {
		Check(context.Context) ([]string, error)
	}); ok {
		s.serving.Go(func() { s.watch.Check(ctx, c.Check) })
	}
}
