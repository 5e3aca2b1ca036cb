package proxy

import (
	"github.com/prometheus/client_golang/prometheus"

	"usher/limiter"
	"usher/proxy/rules"
	"usher/store/limit"
)

// follow gives the rules in force their series, so that the first admission or refusal
// is an increase from 0. It deletes the series of a rule that no generation with
// sessions has, and that was not in force before this policy either. So Prometheus has
// had time to read the last values.
func (m *Metrics) follow(t *table) {
	s := &m.byRule
	s.mu.Lock()
	defer s.mu.Unlock()
	sets := t.rules() // read here: of two calls at once, the later has the newer
	inForce := sets[len(sets)-1]
	if s.inForce != nil {
		sets = append(sets, s.inForce)
	}
	kept := make(map[string]bool)
	for _, set := range sets {
		for r := range set.All() {
			kept[r.Label()] = true
		}
	}
	for label := range s.labels {
		if !kept[label] {
			m.admitted.DeletePartialMatch(prometheus.Labels{"rule": label})
			m.wouldRefuse.DeleteLabelValues(label)
			m.rejected.DeletePartialMatch(prometheus.Labels{"rule": label})
		}
	}
	m.rejected.WithLabelValues("", "blocked") // no client-rule matches
	for r := range inForce.All() {
		m.begin(r)
	}
	s.labels, s.inForce = kept, inForce
}

// begin creates the series of a rule: its admissions, its refusals as far as the rule or
// its limit are the cause, and its reports.
func (m *Metrics) begin(r *rules.Rule) {
	if !r.Pass || r.Client {
		// A client-rule also counts requests that no socks-rule matches.
		m.rejected.WithLabelValues(r.Label(), "blocked")
	}
	if !r.Pass {
		return
	}
	for _, command := range admittedAs(r) {
		m.admitted.WithLabelValues(r.Label(), command)
	}
	if r.Session.Limited && r.Session.Report {
		m.wouldRefuse.WithLabelValues(r.Label())
	}
	for _, err := range refusals(r) {
		m.rejected.WithLabelValues(r.Label(), outcomeOf(err).reason)
	}
}

// refusals returns the errors with which the limit of a rule can refuse a session.
func refusals(r *rules.Rule) (errs []error) {
	s := r.Session
	if !s.Limited || s.Report {
		return nil
	}
	if s.Max != limit.None || s.KeyMax > 0 {
		errs = append(errs, limiter.ErrFull)
	}
	if s.Throttle.N > 0 || s.KeyThrottle.N > 0 {
		errs = append(errs, limiter.ErrThrottled)
	}
	if s.KeyThrottle.N > 0 {
		errs = append(errs, limiter.ErrKeys)
	}
	return append(errs, limiter.ErrUnavailable, limiter.ErrRecovering, limiter.ErrMismatch)
}

// admittedAs returns the values of command under which a rule that passes can admit
// sessions. A rule for BIND's peer admits a session of the command bind.
func admittedAs(r *rules.Rule) (commands []string) {
	if r.Client {
		return []string{"negotiate"}
	}
	for _, c := range r.Commands() {
		switch c {
		case rules.Connect:
			commands = append(commands, "connect")
		case rules.Bind, rules.BindReply:
			commands = append(commands, "bind")
		case rules.UDPAssociate:
			commands = append(commands, "udpassociate")
		case rules.UDPReply: // datagrams are not admitted one by one
		}
	}
	return commands
}
