package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"usher/deploy/need"
)

// alerts are the shipped alert rules.
const alerts = "../deploy/monitoring/alerts.yml"

// alertRule is an alert of the shipped file.
type alertRule struct {
	Alert       string
	Expr        string
	For         string
	Labels      map[string]string
	Annotations map[string]string
}

// alertRules returns the shipped alerts.
func alertRules(t testing.TB) (all []alertRule) {
	t.Helper()
	var file struct {
		Groups []struct{ Rules []alertRule }
	}
	if err := yaml.Unmarshal([]byte(readFile(t, alerts)), &file); err != nil {
		t.Fatal(err)
	}
	for _, group := range file.Groups {
		all = append(all, group.Rules...)
	}
	if len(all) < 10 {
		t.Fatalf("%s has %d alerts", alerts, len(all))
	}
	return all
}

// promtool runs Prometheus' own checks, which must succeed.
func promtool(t testing.TB, args ...string) {
	t.Helper()
	if out, err := exec.Command(need.Program(t, "promtool"), args...).CombinedOutput(); err != nil {
		t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// TestAlertRules has Prometheus check the shipped alerts, and run their cases.
func TestAlertRules(t *testing.T) {
	promtool(t, "check", "rules", alerts)
	promtool(t, "test", "rules", "../deploy/monitoring/alerts_test.yml")
}

// Each alert fires in one case, does not in another, and is explained.
func TestAlertsHaveCases(t *testing.T) {
	var cases struct {
		Tests []struct {
			Cases []struct {
				Alert string `yaml:"alertname"`
				Exp   []any  `yaml:"exp_alerts"`
			} `yaml:"alert_rule_test"`
		}
	}
	if err := yaml.Unmarshal([]byte(readFile(t, "../deploy/monitoring/alerts_test.yml")), &cases); err != nil {
		t.Fatal(err)
	}
	fires, silent := map[string]bool{}, map[string]bool{}
	for _, test := range cases.Tests {
		for _, c := range test.Cases {
			fires[c.Alert] = fires[c.Alert] || len(c.Exp) > 0
			silent[c.Alert] = silent[c.Alert] || len(c.Exp) == 0
		}
	}
	page := readFile(t, "../docs/monitoring.md")
	var names []string
	for _, a := range alertRules(t) {
		if !fires[a.Alert] || !silent[a.Alert] {
			t.Errorf("%s: a case in which it fires: %v, and one in which it does not: %v", a.Alert, fires[a.Alert], silent[a.Alert])
		}
		if !strings.Contains(page, "| `"+a.Alert+"` |") {
			t.Errorf("docs/monitoring.md does not explain %s", a.Alert)
		}
		if a.Labels["severity"] == "" || a.Annotations["summary"] == "" || a.Annotations["description"] == "" {
			t.Errorf("%s lacks a severity, a summary or a description", a.Alert)
		}
		names = append(names, a.Alert)
	}
	if rows := strings.Count(page, "\n| `Usher"); rows != len(names) {
		t.Errorf("docs/monitoring.md explains %d alerts, there are %d", rows, len(names))
	}
	if slices.Sort(names); len(slices.Compact(names)) != len(fires) {
		t.Errorf("there are cases of %d alerts, and %d alerts", len(fires), len(names))
	}
}

// allCounted are rules of each kind that has series of its own.
const allCounted = `
client pass { from: 0/0 to: 0/0 }
socks block { from: 0/0 to: 192.0.2.0/24
	rule.name: private }
socks pass { from: 0/0 to: 198.51.100.0/24
	rule.name: mail
	session.pool: mails
	session.max: 4 }
socks pass { from: 0/0 to: 203.0.113.0/24
	rule.name: tried
	session.mode: report
	session.max: 7 }
socks pass { from: 0/0 to: 0.0.0.0/1
	rule.name: pooled
	session.pool: tries
	session.mode: report
	session.max: 7 }
socks pass { from: 0/0 to: 0/0
	rule.name: web
	session.max: 5
	session.throttle: 9/1
	session.state.key: from
	session.state.throttle: 9/1 }
`

// A replica that has just started exports each series that the alerts and the dashboard
// select, and each that the cases of the alerts feed: increase() sees no first burst of a
// series that begins with it.
func TestAlertsSelectSeriesThatExist(t *testing.T) {
	file := filepath.Join(t.TempDir(), "sockd.conf")
	writeFile(t, file, allCounted)
	r := startReplica(t, "usher", "127.0.0.1", need.Port(t), need.Port(t), map[string]string{"USHER_CONFIG": file})
	var fresh []series
	for sample := range r.metrics(t) {
		fresh = append(fresh, readSeries(t, sample)...)
	}
	queries := readDashboard(t).queries(t)
	for _, a := range alertRules(t) {
		queries = append(queries, query{where: a.Alert, expr: a.Expr})
	}
	for _, q := range queries {
		for _, wanted := range readSeries(t, q.expr) {
			if wanted["__name__"] == "usher_sessions" {
				continue // a gauge, which has series while there are sessions
			}
			if !slices.ContainsFunc(fresh, wanted.matches) && wanted.ours() {
				t.Errorf("%s: nothing has been counted, and there is no %v", q.where, wanted)
			}
		}
	}
	for _, text := range fedSeries(t) {
		for _, fed := range readSeries(t, text) {
			if !slices.ContainsFunc(fresh, fed.resembles) && fed.ours() {
				t.Errorf("alerts_test.yml feeds %v, and a replica has no such series", fed)
			}
		}
	}
}

// fedSeries returns the series that the cases of the alerts feed.
func fedSeries(t *testing.T) (all []string) {
	t.Helper()
	var cases struct {
		Tests []struct {
			Input []struct{ Series string } `yaml:"input_series"`
		}
	}
	if err := yaml.Unmarshal([]byte(readFile(t, "../deploy/monitoring/alerts_test.yml")), &cases); err != nil {
		t.Fatal(err)
	}
	for _, test := range cases.Tests {
		for _, input := range test.Input {
			all = append(all, input.Series)
		}
	}
	if len(all) < 50 {
		t.Fatalf("the cases feed %d series", len(all))
	}
	return all
}

// Prometheus accepts the configurations of docs/monitoring.md.
func TestDocumentedScrapeConfigs(t *testing.T) {
	blocks := strings.Split(readFile(t, "../docs/monitoring.md"), "\n```yaml\n")[1:]
	if len(blocks) < 2 {
		t.Errorf("docs/monitoring.md has %d configurations", len(blocks))
	}
	for _, block := range blocks {
		text, _, _ := strings.Cut(block, "```")
		name := filepath.Join(t.TempDir(), "prometheus.yml")
		writeFile(t, name, text)
		promtool(t, "check", "config", "--syntax-only", name)
	}
}

// prometheusConfig writes the configuration of the demo, for replicas at these addresses,
// and returns its name. Nothing waits: it scrapes and evaluates four times a second, and
// alerts fire at once, because Prometheus has tested how long they wait (TestAlertRules).
func prometheusConfig(t testing.TB, targets ...string) string {
	t.Helper()
	dir := t.TempDir()
	var config map[string]any
	if err := yaml.Unmarshal([]byte(readFile(t, "../deploy/compose/prometheus/prometheus.yml")), &config); err != nil {
		t.Fatal(err)
	}
	rules := filepath.Join(dir, "alerts.yml")
	var hasty []string
	for line := range strings.Lines(readFile(t, alerts)) {
		if !strings.HasPrefix(line, "        for: ") {
			hasty = append(hasty, line)
		}
	}
	writeFile(t, rules, strings.Join(hasty, ""))
	config["global"] = map[string]any{"scrape_interval": "250ms", "scrape_timeout": "250ms", "evaluation_interval": "250ms"}
	config["rule_files"] = []string{rules}
	job := config["scrape_configs"].([]any)[0].(map[string]any)
	delete(job, "dns_sd_configs")
	job["static_configs"] = []any{map[string]any{"targets": targets}}
	text, err := yaml.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, "prometheus.yml")
	if err := os.WriteFile(name, text, 0o600); err != nil {
		t.Fatal(err)
	}
	promtool(t, "check", "config", name)
	return name
}
