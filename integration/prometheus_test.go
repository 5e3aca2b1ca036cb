package integration

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"usher/deploy/need"
)

// prometheus is a running Prometheus.
type prometheus struct {
	t   testing.TB
	url string
}

// startPrometheus starts Prometheus with this configuration, and waits until it scrapes n
// targets.
func startPrometheus(t testing.TB, config string, n int) *prometheus {
	t.Helper()
	at := fmt.Sprintf("127.0.0.1:%d", need.Port(t))
	start(t, "prometheus", nil, need.Program(t, "prometheus"), "--config.file="+config, "--storage.tsdb.path="+t.TempDir(),
		"--web.listen-address="+at, "--log.level=warn")
	p := &prometheus{t, "http://" + at}
	p.waitUp(n)
	return p
}

// waitUp waits until n targets answer Prometheus, and no target does not.
func (p *prometheus) waitUp(n int) {
	p.t.Helper()
	eventually(p.t, patience, func() string {
		var targets struct {
			ActiveTargets []struct{ ScrapeURL, Health, LastError string }
		}
		if err := p.try("targets", nil, &targets); err != nil {
			return err.Error()
		}
		up := 0
		for _, target := range targets.ActiveTargets {
			if target.Health == "up" {
				up++
			}
		}
		if up != n || len(targets.ActiveTargets) != n {
			return fmt.Sprintf("want %d targets that are up, there are %+v", n, targets.ActiveTargets)
		}
		return ""
	})
}

// try asks Prometheus' API for the data of an answer.
func (p *prometheus) try(path string, params url.Values, data any) error {
	resp, err := adminClient.Get(p.url + "/api/v1/" + path + "?" + params.Encode())
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer := struct {
		Error string
		Data  any
	}{Data: data}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", resp.Status, answer.Error)
	}
	return nil
}

// ask is try, which must succeed.
func (p *prometheus) ask(path string, params url.Values, data any) {
	p.t.Helper()
	if err := p.try(path, params, data); err != nil {
		p.t.Fatalf("Prometheus, %s %v: %v", path, params, err)
	}
}

// labels returns the metrics that Prometheus knows and their labels.
func (p *prometheus) labels() labelsOf {
	p.t.Helper()
	var series []map[string]string
	p.ask("series", url.Values{"match[]": {`{__name__=~".+"}`}}, &series)
	known := labelsOf{}
	for _, s := range series {
		name := s["__name__"]
		if known[name] == nil {
			known[name] = map[string]bool{}
		}
		for label := range s {
			known[name][label] = true
		}
	}
	return known
}

// query returns the labels of the series that an expression has now.
func (p *prometheus) query(expr string) []map[string]string {
	p.t.Helper()
	var answer struct {
		Result []struct{ Metric map[string]string }
	}
	p.ask("query", url.Values{"query": {expr}}, &answer)
	var all []map[string]string
	for _, r := range answer.Result {
		all = append(all, r.Metric)
	}
	return all
}

// firing returns the alerts that fire, each with the values of these labels that it has.
func (p *prometheus) firing(labels ...string) (names []string) {
	p.t.Helper()
	var answer struct {
		Alerts []struct {
			State  string
			Labels map[string]string
		}
	}
	p.ask("alerts", nil, &answer)
	for _, a := range answer.Alerts {
		if a.State != "firing" {
			continue
		}
		name := a.Labels["alertname"]
		for _, label := range labels {
			if v := a.Labels[label]; v != "" {
				name += " " + v
			}
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// fires waits until this alert fires.
func (p *prometheus) fires(alert string, labels ...string) {
	p.t.Helper()
	eventually(p.t, patience, func() string {
		if now := p.firing(labels...); !slices.Contains(now, alert) {
			return fmt.Sprintf("%s does not fire, but %v", alert, now)
		}
		return ""
	})
}

// monitored are the rules of TestMonitoring: a limit, a pool and a limit on trial.
func monitored(max int) func(limited, free endpoint) string {
	return func(limited, free endpoint) string {
		return fmt.Sprintf(`
client pass { from: 0/0 to: 0/0 }
socks pass { from: 0/0 to: %s
	rule.name: web
	maxsessions: %d }
socks pass { from: 0/0 to: %s
	rule.name: mail
	session.pool: mails
	session.max: 50 }
socks pass { from: 0/0 to: 0/0
	rule.name: tried
	session.mode: report
	session.max: 1 }
`, limited.to(), max, free.to())
	}
}

// TestMonitoring has Prometheus scrape three replicas. It judges their metrics, the
// dashboard, and the shipped alerts while things go wrong.
func TestMonitoring(t *testing.T) {
	need.Seconds(t)
	need.Program(t, "prometheus")
	w := newWorld(t, options{rules: monitored(3)})
	var targets []string
	for _, r := range w.replicas {
		targets = append(targets, strings.TrimPrefix(r.admin, "http://"))
	}
	p := startPrometheus(t, prometheusConfig(t, targets...), len(targets))
	if now := p.firing(); len(now) != 0 {
		t.Fatalf("all is well, and %v fire", now)
	}

	held := w.proxy.ask(t, 9, w.limited.String())
	held.want(t, 3, notAllowed)
	w.proxy.ask(t, 4, w.free.String()).want(t, 4, notAllowed)
	p.fires("UsherLimitFull web "+w.replicas[0].status(t).Rules.Generation, "rule", "generation")
	p.fires("UsherLimitRefuses limit web", "reason", "rule")

	// Older rules are full as well, and that is nobody's trouble.
	w.reload(monitored(5)(w.limited, w.free), true)
	eventually(t, patience, func() string {
		if now := p.firing(); slices.Contains(now, "UsherLimitFull") {
			return fmt.Sprint("two places are free, and there fire ", now)
		}
		return ""
	})

	w.reload("nonsense\n", false)
	p.fires("UsherReloadFailed")
	t.Run("metrics", func(t *testing.T) { metricsPass(t, w) })
	t.Run("alerts name what exists", func(t *testing.T) { alertsKnow(t, p) })
	t.Run("the dashboard shows data", func(t *testing.T) { dashboardShows(t, p) })
	held.close()

	w.replicas[2].kill()
	p.fires("UsherReplicaDown "+targets[2], "instance")
	p.fires("UsherReplicaMissing")
	w.store.Kill()
	p.fires("UsherStoreAway "+targets[0], "instance")
	w.proxy.ask(t, 1, w.limited.String())
	p.fires("UsherStoreRefuses store_unavailable web", "reason", "rule")
}

// metricsPass has promtool judge names, types and help texts.
func metricsPass(t *testing.T, w *world) {
	_, text, err := w.replicas[0].get("/metrics")
	if err != nil {
		t.Fatal(err)
	}
	check := exec.Command(need.Program(t, "promtool"), "check", "metrics")
	check.Stdin = strings.NewReader(text)
	if out, err := check.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("promtool check metrics: %v\n%s", err, out)
	}
}

// alertsKnow checks that the alerts ask for metrics and labels that exist.
func alertsKnow(t *testing.T, p *prometheus) {
	known := p.labels()
	for _, a := range alertRules(t) {
		for _, trouble := range known.unknown(a.Expr) {
			t.Errorf("%s: %s", a.Alert, trouble)
		}
	}
}

// dashboardShows checks that the dashboard and docs/monitoring.md ask for metrics and
// labels that exist, and that Prometheus answers with the labels that legends show.
func dashboardShows(t *testing.T, p *prometheus) {
	known := p.labels()
	if n := len(slices.DeleteFunc(slices.Collect(maps.Keys(known)), func(name string) bool { return !strings.HasPrefix(name, "usher_") })); n < 30 {
		t.Fatalf("Prometheus knows %d metrics of Usher", n)
	}
	for _, q := range slices.Concat(readDashboard(t).queries(t), documented(t)) {
		for _, trouble := range known.unknown(q.expr) {
			t.Errorf("%s: %s", q.where, trouble)
		}
		answer := p.query(strings.TrimSuffix(q.expr, " > 0")) // which is what happens seldom
		if len(answer) == 0 {
			t.Errorf("%s: no data for %s", q.where, q.expr)
		}
		for _, label := range q.legend {
			if !slices.ContainsFunc(answer, func(s map[string]string) bool { _, has := s[label]; return has }) {
				t.Errorf("%s: its legend shows the label %s, and the answer has %v", q.where, label, answer)
			}
		}
	}
}
