package admin

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"usher/limiter"
)

// NewRegistry returns a registry that holds the metrics of the Go runtime and
// of the process, usher_build_info and usher_replica_info.
func NewRegistry(version, goVersion, replica string) *prometheus.Registry {
	reg := prometheus.NewRegistry()
	build := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "usher_build_info", Help: "Always 1. The labels are the version of usher and of Go.",
	}, []string{"version", "goversion"})
	build.WithLabelValues(version, goVersion).Set(1)
	name := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "usher_replica_info", Help: "Always 1. The label is the name of this replica (USHER_REPLICA).",
	}, []string{"replica"})
	name.WithLabelValues(replica).Set(1)
	reg.MustRegister(build, name,
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return reg
}

// StoreMetrics measure the requests of the limiter to the store.
type StoreMetrics struct {
	duration *prometheus.HistogramVec
	errors   *prometheus.CounterVec
}

// NewStoreMetrics registers the metrics of the store.
func NewStoreMetrics(reg prometheus.Registerer) *StoreMetrics {
	m := &StoreMetrics{
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "usher_store_operation_duration_seconds",
			Help:    "Duration of operations of the store, including failed ones.",
			Buckets: prometheus.ExponentialBuckets(0.000125, 2, 16), // 125 µs to 4 s
		}, []string{"op"}),
		errors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "usher_store_errors_total",
			Help: "Failed operations of the store.",
		}, []string{"op"}),
	}
	for _, op := range limiter.Operations() {
		m.duration.WithLabelValues(op) // the series begin at 0
		m.errors.WithLabelValues(op)
	}
	reg.MustRegister(m.duration, m.errors)
	return m
}

// Observe counts one operation. Its signature is that of
// limiter.Options.Observe; it is safe for concurrent use.
func (m *StoreMetrics) Observe(op string, took time.Duration, err error) {
	m.duration.WithLabelValues(op).Observe(took.Seconds())
	if err != nil {
		m.errors.WithLabelValues(op).Inc()
	}
}

// CollectLogDrops registers usher_log_lines_dropped_total. dropped returns the lines
// that were not written because a destination was slow or failed, and those above
// a budget (USHER_LOG_BUDGET, USHER_LOG_SESSIONS). It is called at each scrape.
func CollectLogDrops(reg prometheus.Registerer, dropped func() (unwritten, overBudget uint64)) {
	counter := func(reason string, value func() uint64) prometheus.Collector {
		return prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "usher_log_lines_dropped_total", ConstLabels: prometheus.Labels{"reason": reason},
			Help: "Log lines that were dropped: unwritten, as a destination was slow or failed; budget, as USHER_LOG_BUDGET or USHER_LOG_SESSIONS was used up.",
		}, func() float64 { return float64(value()) })
	}
	reg.MustRegister(
		counter("unwritten", func() uint64 { n, _ := dropped(); return n }),
		counter("budget", func() uint64 { _, n := dropped(); return n }))
}

// CollectAccountingDrops registers usher_accounting_lines_dropped_total. dropped returns the
// lines that were not written because the destination was slow or failed. It is called at
// each scrape.
func CollectAccountingDrops(reg prometheus.Registerer, dropped func() uint64) {
	reg.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "usher_accounting_lines_dropped_total",
		Help: "Accounting lines that were not written, as the destination (USHER_ACCOUNTING) was slow or failed. A line that sums up refusals counts as one.",
	}, func() float64 { return float64(dropped()) }))
}

// CollectSnapshot registers the metrics that are read from a snapshot at each
// scrape, so that they agree with /status.
func CollectSnapshot(reg prometheus.Registerer, snapshot func() Snapshot) {
	reg.MustRegister(&snapshotCollector{snapshot})
}

type snapshotCollector struct{ snapshot func() Snapshot }

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("usher_"+name, help, labels, nil)
}

var (
	generation = desc("config_generation",
		"Number of the generation of the rules in force. 0 until the store has returned it.")
	generationInfo = desc("generation_info",
		"Always 1. The label is the generation of the rules in force, as in other metrics.", "generation")
	reloadOK = desc("config_last_reload_successful",
		"1 if the last load of the rules succeeded, 0 if it failed and the old rules stay in force.")
	reloadTime = desc("config_last_reload_success_timestamp_seconds",
		"Unix time at which the rules in force were loaded.")
	publishedNewest = desc("config_published_generation",
		"Newest generation that is published for the cluster, as last read from the store. 0 without USHER_CONFIG=store.")
	publishedRefused = desc("config_published_refused",
		"Generation that is published and that this replica does not accept. 0 if there is none.")
	publishedSilent = desc("config_replicas_not_following",
		"Members of the store that do not follow the published rules. 0 without USHER_CONFIG=store.")
	limitSessions = desc("limit_sessions",
		"Sessions of a limited rule without a pool across all replicas, as last read from the store.", "rule", "generation")
	limitMax = desc("limit_max",
		"How many usher_limit_sessions the rule admits (session.mode enforce), or would admit (report).", "rule", "generation", "mode")
	poolSessions = desc("pool_sessions",
		"Sessions of a pool across all replicas, as last read from the store.", "pool")
	poolMax = desc("pool_max",
		"How many usher_pool_sessions the pool admits for a generation (session.mode enforce), or would admit (report).", "pool", "generation", "mode")
	storeJoined = desc("store_joined",
		"1 while this replica is a member in the store.")
	storeRecovering = desc("store_recovering",
		"1 while the store is recovering: it takes back live sessions and admits no new limited ones.")
	storeMismatch = desc("store_settings_mismatch",
		"1 while the store refuses this replica because live ones have conflicting lease settings.")
	storeReplicas = desc("store_replicas",
		"Replicas that are members in the store.")
	storeGenerations = desc("store_generations",
		"Different generations of rules among the members. Above 1 is normal during a rolling change only.")
	storeLeasesLost = desc("store_leases_lost_total",
		"Leases (one for each shard) that ended while limited sessions relied on them.")
)

// Describe implements prometheus.Collector.
func (c *snapshotCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{generation, generationInfo, reloadOK, reloadTime, publishedNewest, publishedRefused, publishedSilent,
		limitSessions, limitMax, poolSessions, poolMax, storeJoined, storeRecovering, storeMismatch, storeReplicas, storeGenerations, storeLeasesLost} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *snapshotCollector) Collect(ch chan<- prometheus.Metric) {
	now := c.snapshot()
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	gauge(generation, float64(now.Rules.Number))
	if now.Rules.Generation != "" {
		gauge(generationInfo, 1, now.Rules.Generation)
	}
	gauge(reloadOK, flag(now.Rules.ReloadOK))
	gauge(reloadTime, float64(now.Rules.Loaded.UnixMilli())/1000)
	var published Published
	if now.Rules.Published != nil {
		published = *now.Rules.Published
	}
	gauge(publishedNewest, float64(published.Newest))
	gauge(publishedRefused, float64(published.Refused))
	gauge(publishedSilent, float64(len(published.Silent)))
	collectLimits(now.Rules.Limits, gauge)
	gauge(storeJoined, flag(now.Store.Joined))
	gauge(storeRecovering, flag(now.Store.Recovering))
	gauge(storeMismatch, flag(now.Store.Mismatch != ""))
	gauge(storeReplicas, float64(now.Store.ReplicaCount))
	gauge(storeGenerations, float64(now.Store.Generations))
	ch <- prometheus.MustNewConstMetric(storeLeasesLost, prometheus.CounterValue, float64(now.Store.LeasesLost))
}

// collectLimits gives each rule its series, and each pool those that its rules share.
func collectLimits(limits []RuleLimit, gauge func(d *prometheus.Desc, v float64, labels ...string)) {
	type series struct{ pool, generation string }
	shown := map[series]bool{}
	once := func(s series) bool {
		defer func() { shown[s] = true }()
		return !shown[s]
	}
	for _, l := range limits {
		switch {
		case l.Pool == "":
			gauge(limitSessions, float64(l.Sessions), l.Name, l.Generation)
			if l.Max >= 0 {
				gauge(limitMax, float64(l.Max), l.Name, l.Generation, l.Mode)
			}
			continue
		case once(series{l.Pool, ""}):
			gauge(poolSessions, float64(l.Sessions), l.Pool)
		}
		if once(series{l.Pool, l.Generation}) && l.Max >= 0 {
			gauge(poolMax, float64(l.Max), l.Pool, l.Generation, l.Mode)
		}
	}
}

func flag(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
