package integration

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/VictoriaMetrics/metricsql"
)

// labelsOf maps a metric to its labels.
type labelsOf map[string]map[string]bool

// unknown returns the metrics and labels of an expression that no series has: of a
// metric the labels that it is selected by, and those by which metrics are grouped and
// joined. Prometheus itself checks the syntax, because this parser is more tolerant.
func (known labelsOf) unknown(expr string) (trouble []string) {
	parsed, err := metricsql.Parse(expr)
	if err != nil {
		return []string{err.Error()}
	}
	complain := func(format string, args ...any) { trouble = append(trouble, fmt.Sprintf(format, args...)) }
	metricsql.VisitAll(parsed, func(e metricsql.Expr) {
		var grouped []string
		switch e := e.(type) {
		case *metricsql.MetricExpr:
			for name, labels := range selected(e) {
				for _, label := range labels {
					if known[name] == nil {
						complain("there is no metric %s", name)
					} else if !known[name][label] {
						complain("%s has no label %s", name, label)
					}
				}
			}
			return
		case *metricsql.AggrFuncExpr:
			grouped = e.Modifier.Args
		case *metricsql.BinaryOpExpr:
			grouped = slices.Concat(e.GroupModifier.Args, e.JoinModifier.Args)
		}
		below := known.below(e)
		for _, label := range grouped {
			if !below[label] {
				complain("nothing in %s has the label %s", e.AppendString(nil), label)
			}
		}
	})
	return trouble
}

// selected returns the metric that e selects, and the labels by which it does. The name
// is one of them.
func selected(e *metricsql.MetricExpr) map[string][]string {
	all := map[string][]string{}
	for _, filters := range e.LabelFilterss {
		name, labels := "", []string{"__name__"}
		for _, f := range filters {
			if f.Label == "__name__" {
				name = f.Value
				continue
			}
			labels = append(labels, f.Label)
		}
		all[name] = append(all[name], labels...)
	}
	return all
}

// below returns the labels of all metrics in e.
func (known labelsOf) below(e metricsql.Expr) map[string]bool {
	labels := map[string]bool{}
	metricsql.VisitAll(e, func(e metricsql.Expr) {
		if m, ok := e.(*metricsql.MetricExpr); ok {
			for name := range selected(m) {
				maps.Copy(labels, known[name])
			}
		}
	})
	return labels
}

// The checks of the dashboard and of the alerts find what does not exist.
func TestUnknownInPromQL(t *testing.T) {
	known := labelsOf{
		"a": {"__name__": true, "job": true, "rule": true},
		"b": {"__name__": true, "job": true},
	}
	for expr, want := range map[string]string{
		`sum by (rule) (rate(a{job="x"}[5m])) / on (job) group_left (rule) b > 0.5`: "",
		`c`:                              "there is no metric c",
		`b{rule="x"}`:                    "b has no label rule",
		`rate(a[5m]) + sum(c)`:           "there is no metric c",
		`sum by (rule) (b)`:              "nothing in sum(b) by(rule) has the label rule",
		`a * on (location) b`:            "nothing in a * on(location) b has the label location",
		`a * on (job) group_left (of) b`: "nothing in a * on(job) group_left(of) b has the label of",
		`sum(`:                           "unexpected token",
	} {
		got := strings.Join(known.unknown(expr), "; ")
		if want == "" && got != "" || !strings.Contains(got, want) {
			t.Errorf("%s: %q, want %q", expr, got, want)
		}
	}
}
