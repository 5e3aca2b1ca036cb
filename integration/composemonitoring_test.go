package integration

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"usher/deploy/need"
)

// TestComposeMonitoring runs the demo with its profile monitoring. Where a stand-in plays
// Grafana, it shows what Grafana would read.
func TestComposeMonitoring(t *testing.T) {
	const grafana = "grafana/grafana:12.0.0"
	needDocker(t, "redis:7-alpine", "haproxy:3.0-alpine", "busybox:1.36", "prom/prometheus:v3.5.0", grafana)
	d := newDemo(t)
	p := &prometheus{t, fmt.Sprintf("http://127.0.0.1:%d", need.Port(t))}
	shown := fmt.Sprintf("http://127.0.0.1:%d", need.Port(t))
	d.env = append(d.env, "COMPOSE_PROFILES=monitoring",
		"USHER_PROMETHEUS_PORT="+portOf(p.url), "USHER_GRAFANA_PORT="+portOf(shown))
	d.up()
	p.waitUp(3)
	t.Run("only loopback is open", d.onlyLoopback)

	var rules struct {
		Groups []struct {
			Rules []struct{ Name, Health string }
		}
	}
	eventually(t, patience, func() string { // once they were evaluated
		p.ask("rules", nil, &rules)
		loaded := 0
		for _, group := range rules.Groups {
			for _, rule := range group.Rules {
				if loaded++; rule.Health != "ok" {
					return fmt.Sprintf("%+v", rule)
				}
			}
		}
		if want := len(alertRules(t)); loaded != want {
			return fmt.Sprintf("%d alerts are loaded, want %d", loaded, want)
		}
		return ""
	})
	if now := p.firing(); slices.Contains(now, "UsherLimitRefuses") {
		t.Errorf("nobody was refused, and there fire %v", now)
	}
	d.fill(t)
	p.fires("UsherLimitRefuses limit web", "reason", "rule")

	label, err := docker("image", "inspect", "-f", `{{index .Config.Labels "usher.standin"}}`, grafana)
	if err != nil {
		t.Fatal(err)
	}
	wanted := map[string]string{
		"/prometheus.yml": readFile(t, "../deploy/compose/grafana/datasources/prometheus.yml"),
		"/dashboard.json": readFile(t, "../deploy/monitoring/dashboard.json"),
	}
	if label == "" {
		wanted = map[string]string{"/api/dashboards/uid/usher": "", "/api/health": ""}
	}
	for path, want := range wanted {
		eventually(t, patience, func() string {
			code, body, err := (&replica{admin: shown}).get(path)
			if err != nil || code != 200 || want != "" && body != want {
				return fmt.Sprintf("Grafana answers %d, %v for %s: %.200s", code, err, path, body)
			}
			return ""
		})
	}
}

// portOf returns the port of a URL.
func portOf(url string) string { return url[strings.LastIndexByte(url, ':')+1:] }
