package proxy

import (
	"cmp"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"usher/limiter"
	"usher/proxy/rules"
	"usher/proxy/socks"
	"usher/proxy/udp"
)

// Metrics are the metrics of a Server for Prometheus. Labels have few values: rules,
// generations with sessions, and fixed words. Users, clients and targets are never
// labels.
type Metrics struct {
	admitted       *prometheus.CounterVec
	unconfirmed    *prometheus.CounterVec
	wouldRefuse    *prometheus.CounterVec
	rejected       *prometheus.CounterVec
	duration       prometheus.Histogram
	connectErrors  *prometheus.CounterVec
	authAttempts   *prometheus.CounterVec
	turnedAway     *prometheus.CounterVec
	checks         prometheus.Counter
	nameCache      *prometheus.CounterVec
	lookups        prometheus.Histogram
	lookupsDelayed prometheus.Counter

	udp *udp.Metrics

	byRule ruleSeries
	live   atomic.Pointer[table] // whose sessions Collect shows
}

// ruleSeries knows which rules have series in the metrics with the label rule.
type ruleSeries struct {
	mu      sync.Mutex
	labels  map[string]bool // of rules with series
	inForce *rules.Set      // at the last follow
}

var (
	sessionsDesc = prometheus.NewDesc("usher_sessions",
		"Sessions on this replica, by the last rule that passed them.", []string{"rule", "generation", "command"}, nil)
	ruleDesc = prometheus.NewDesc("usher_rule_info",
		"Always 1. The position and the location (file:line) of each rule in force.", []string{"rule", "position", "location"}, nil)
	bytesDesc = prometheus.NewDesc("usher_transferred_bytes_total",
		"Bytes relayed: up to targets, down to clients.", []string{"direction", "protocol"}, nil)
)

// NewMetrics returns the metrics of one Server, registered with r unless it
// is nil. It panics if r has metrics of the same names.
func NewMetrics(r prometheus.Registerer) *Metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	m := &Metrics{
		admitted: counter("usher_sessions_admitted_total", "Sessions that a rule passed and that got a slot.", "rule", "command"),
		unconfirmed: counter("usher_sessions_unconfirmed_total",
			"Sessions admitted while the store did not answer: by this replica's own count (enforce, with USHER_STORE_DOWN=admit), or by a limit in session.mode report.", "mode"),
		wouldRefuse:   counter("usher_sessions_would_refuse_total", "Sessions that a limit in session.mode report would have refused.", "rule"),
		rejected:      counter("usher_sessions_rejected_total", "Sessions that ended before they were connected. The rule is empty if neither it nor its limit is the cause.", "rule", "reason"),
		connectErrors: counter("usher_connect_errors_total", "Sessions whose target could not be reached.", "type"),
		authAttempts:  counter("usher_auth_attempts_total", "Logins, by result.", "method", "result"),
		turnedAway:    counter("usher_clients_turned_away_total", "Clients closed because too many are negotiating, no descriptors are left, or memory is short.", "reason"),
		checks: prometheus.NewCounter(prometheus.CounterOpts{Name: "usher_health_checks_total",
			Help: "Connections that were closed before they were clients. They are no sessions."}),
		nameCache: counter("usher_dns_cache_total", "Names that needed no lookup: the answer was cached (hit), or another session was looking it up (joined).", "result"),
		lookupsDelayed: prometheus.NewCounter(prometheus.CounterOpts{Name: "usher_dns_lookups_delayed_total",
			Help: "DNS lookups that had to wait because too many were running, for all clients or for one."}),
		lookups: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "usher_dns_lookup_duration_seconds",
			Help:    "Duration of DNS lookups.",
			Buckets: []float64{0.001, 0.005, 0.02, 0.1, 0.5, 1, 5, 10},
		}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "usher_session_duration_seconds",
			Help:    "Duration of connected sessions, from accept to close.",
			Buckets: []float64{0.01, 0.1, 1, 10, 60, 600, 3600, 6 * 3600, 24 * 3600},
		}),
	}
	for _, result := range []string{"ok", "failed", "throttled"} {
		m.authAttempts.WithLabelValues("username", result) // the series begins at 0
	}
	for _, reason := range []string{"negotiating", "descriptors", "memory"} {
		m.turnedAway.WithLabelValues(reason)
	}
	for _, result := range []string{"hit", "joined"} {
		m.nameCache.WithLabelValues(result)
	}
	for _, s := range []rules.Session{{}, {Report: true}} {
		m.unconfirmed.WithLabelValues(s.Mode())
	}
	for _, o := range outcomes {
		switch o.cause {
		case byTarget:
			m.connectErrors.WithLabelValues(o.reason)
		case byOthers:
			m.rejected.WithLabelValues("", o.reason)
		case byRule: // they begin with the rules, see begin
		case whileRelaying:
		}
	}
	m.rejected.WithLabelValues("", otherError)
	m.udp = udp.NewMetrics(r)
	if r != nil {
		r.MustRegister(m, m.admitted, m.unconfirmed, m.wouldRefuse, m.rejected, m.connectErrors, m.authAttempts, m.turnedAway, m.checks, m.nameCache, m.lookups, m.lookupsDelayed, m.duration)
	}
	return m
}

// Describe implements prometheus.Collector.
func (m *Metrics) Describe(ch chan<- *prometheus.Desc) {
	ch <- sessionsDesc
	ch <- ruleDesc
	ch <- bytesDesc
}

// Collect implements prometheus.Collector. It reads the table of sessions, so the
// series of a generation end with its last session.
func (m *Metrics) Collect(ch chan<- prometheus.Metric) {
	t := m.live.Load()
	if t == nil {
		return
	}
	sessions := make(map[[3]string]int) // a name may move to another rule of the same digest
	for _, c := range t.counts() {
		sessions[[3]string{c.Label, c.Generation, c.Command}] += c.Sessions
	}
	for labels, n := range sessions {
		ch <- prometheus.MustNewConstMetric(sessionsDesc, prometheus.GaugeValue, float64(n), labels[:]...)
	}
	inForce := t.rules()
	for r := range inForce[len(inForce)-1].All() {
		ch <- prometheus.MustNewConstMetric(ruleDesc, prometheus.GaugeValue, 1, r.Label(), r.ID(), at(r))
	}
	bytes := func(n int64, direction, protocol string) {
		ch <- prometheus.MustNewConstMetric(bytesDesc, prometheus.CounterValue, float64(n), direction, protocol)
	}
	sum := t.relayed()
	bytes(sum.tcpUp, "up", "tcp")
	bytes(sum.tcpDown, "down", "tcp")
	bytes(sum.udpUp, "up", "udp")
	bytes(sum.udpDown, "down", "udp")
}

// countAdmission counts a session that r has admitted for a command. If it holds a slot,
// then one of the rule holds.
func (m *Metrics) countAdmission(r *rules.Rule, command string, grant *limiter.Grant, holds *rules.Rule) {
	m.admitted.WithLabelValues(r.Label(), command).Inc()
	if !grant.Confirmed() {
		m.unconfirmed.WithLabelValues(holds.Session.Mode()).Inc()
	}
}

func (m *Metrics) auth(result string) {
	m.authAttempts.WithLabelValues("username", result).Inc()
}

// nameMetrics counts what the cache of names does.
type nameMetrics struct{ *Metrics }

// Answered implements resolve.Observer.
func (m nameMetrics) Answered(joined bool) {
	result := "hit"
	if joined {
		result = "joined"
	}
	m.nameCache.WithLabelValues(result).Inc()
}

// Delayed implements resolve.Observer.
func (m nameMetrics) Delayed() { m.lookupsDelayed.Inc() }

// LookedUp implements resolve.Observer.
func (m nameMetrics) LookedUp(took time.Duration) { m.lookups.Observe(took.Seconds()) }

// finish counts the end of s.
func (m *Metrics) finish(s *session, o outcome, took time.Duration) {
	switch {
	case s.stage.connected:
		m.duration.Observe(took.Seconds())
	case o.cause == byTarget:
		m.connectErrors.WithLabelValues(o.reason).Inc()
	default:
		rule := ""
		if r := cmp.Or(s.socksRule, s.clientRule); r != nil && o.cause == byRule {
			rule = r.Label()
		}
		m.rejected.WithLabelValues(rule, o.reason).Inc()
	}
}

// commandName returns the word for a command in log lines and labels. All unknown
// commands share one.
func commandName(c socks.Command) string {
	switch c {
	case 0:
		return "negotiate"
	case socks.Connect:
		return "connect"
	case socks.Bind:
		return "bind"
	case socks.UDPAssociate:
		return "udpassociate"
	}
	return "unknown"
}

// id returns the position of a rule, "" if there is none.
func id(r *rules.Rule) string {
	if r == nil {
		return ""
	}
	return r.ID()
}

// at returns the file and line of a rule.
func at(r *rules.Rule) string {
	if r == nil {
		return ""
	}
	return r.At()
}
