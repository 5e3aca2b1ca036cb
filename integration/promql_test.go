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

// series are the labels by which series are selected, or those of one series. The name is
// one of them. Labels that Prometheus adds are none.
type series map[string]string

// readSeries returns what an expression selects. Of a filter such as reason=~"a|b", each
// alternative is one series. Filters that need not match anything are left out.
func readSeries(t testing.TB, expr string) (all []series) {
	t.Helper()
	parsed, err := metricsql.Parse(expr)
	if err != nil {
		t.Fatal(err)
	}
	metricsql.VisitAll(parsed, func(e metricsql.Expr) {
		m, ok := e.(*metricsql.MetricExpr)
		if !ok {
			return
		}
		for _, filters := range m.LabelFilterss {
			one := []series{{}}
			for _, f := range filters {
				if f.Label != "job" && f.Label != "instance" && !f.IsNegative && f.Value != ".*" {
					one = with(one, f)
				}
			}
			all = append(all, one...)
		}
	})
	return all
}

// with returns each series with each alternative of a filter.
func with(list []series, f metricsql.LabelFilter) (all []series) {
	values := []string{f.Value}
	if f.IsRegexp {
		values = strings.Split(f.Value, "|")
	}
	for _, s := range list {
		for _, v := range values {
			more := maps.Clone(s)
			more[f.Label] = v
			all = append(all, more)
		}
	}
	return all
}

// ours reports whether it is a series of Usher.
func (s series) ours() bool { return strings.HasPrefix(s["__name__"], "usher_") }

// matches reports whether s selects a series. A value may end with a wildcard.
func (s series) matches(other series) bool {
	for label, value := range s {
		prefix, wild := strings.CutSuffix(value, ".*")
		if other[label] != value && !(wild && strings.HasPrefix(other[label], prefix)) {
			return false
		}
	}
	return true
}

// resembles reports whether two series have the same labels, and the same values of those
// whose values are fixed words.
func (s series) resembles(other series) bool {
	for label, value := range s {
		was, has := other[label]
		if !has && value != "" {
			return false
		}
		switch label {
		case "rule", "pool", "generation", "version", "goversion":
			if (value == "") != (was == "") {
				return false
			}
		default:
			if value != was {
				return false
			}
		}
	}
	return len(s) == len(other)
}

// The comparison with a fresh replica tells series apart as far as it should.
func TestSeriesOfPromQL(t *testing.T) {
	read := func(expr string) series { return readSeries(t, expr)[0] }
	const some = `usher_a{job="x", rule="web", reason="limit"}`
	for fed, want := range map[string]bool{
		some:                                  true,
		`usher_a{rule="mail",reason="limit"}`: true,
		`usher_a{rule="",reason="limit"}`:     false,
		`usher_a{rule="web",reason="auth"}`:   false,
		`usher_a{rule="web"}`:                 false,
		`usher_b{rule="web",reason="limit"}`:  false,
	} {
		if got := read(fed).resembles(read(some)); got != want {
			t.Errorf("%s resembles %s: %v, want %v", fed, some, got, want)
		}
	}
	for selector, want := range map[string]bool{
		`rate(usher_a{reason=~"lim.*"}[5m])`:           true,
		`usher_a{rule=~".*"}`:                          true,
		`usher_a{reason="limit",mode="enforce"}`:       false,
		`sum(increase(usher_a{reason=~"auth.*"}[5m]))`: false,
	} {
		if got := read(selector).matches(read(some)); got != want {
			t.Errorf("%s matches %s: %v, want %v", selector, some, got, want)
		}
	}
	if n := len(readSeries(t, `increase(usher_a{reason=~"limit|auth"}[5m]) > 0`)); n != 2 {
		t.Errorf("two alternatives are %d series", n)
	}
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
