package udp

import "github.com/prometheus/client_golang/prometheus"

// Metrics are the metrics of associations for Prometheus.
type Metrics struct {
	up, down prometheus.Counter
	dropped  [dropKinds]prometheus.Counter
}

// NewMetrics returns metrics, registered with r unless it is nil. It panics if r
// has metrics of the same names.
func NewMetrics(r prometheus.Registerer) *Metrics {
	relayed := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "usher_udp_datagrams_total",
		Help: "Datagrams relayed, up from clients to targets and down."}, []string{"direction"})
	dropped := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "usher_udp_datagrams_dropped_total",
		Help: "Datagrams that were not relayed."}, []string{"reason"})
	m := &Metrics{up: relayed.WithLabelValues("up"), down: relayed.WithLabelValues("down")}
	for d, reason := range dropReasons {
		if reason != "" {
			m.dropped[d] = dropped.WithLabelValues(reason)
		}
	}
	if r != nil {
		r.MustRegister(relayed, dropped)
	}
	return m
}
