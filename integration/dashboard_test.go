package integration

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// query is an expression of the dashboard.
type query struct {
	where  string   // panel and reference
	expr   string   // with Grafana's variables replaced
	legend []string // labels that its legend shows
}

// variables are what Grafana would put in for its own variables and those of the
// dashboard.
var variables = strings.NewReplacer("$__rate_interval", "5s", "$__range", "1h", "$__interval", "5s",
	"$job", "usher", "$instance", ".*", "$rule", ".*")

// panel is the part of a panel that the tests read.
type panel struct {
	ID          int
	Type, Title string
	Description string
	GridPos     struct{ X, Y, W, H int }
	Datasource  struct{ UID string }
	Targets     []struct {
		RefID, Expr, LegendFormat string
		Datasource                struct{ UID string }
	}
	Panels []panel
}

// dashboard is the part of Grafana's dashboard that the tests read.
type dashboard struct {
	Panels      []panel
	Annotations struct {
		List []struct{ Name, Expr, TextFormat, TitleFormat string }
	}
	Templating struct {
		List []struct{ Name, Type, Definition string }
	}
}

func readDashboard(t testing.TB) (d dashboard) {
	t.Helper()
	if err := json.Unmarshal([]byte(readFile(t, "../deploy/monitoring/dashboard.json")), &d); err != nil {
		t.Fatal(err)
	}
	return d
}

var (
	legendLabel = regexp.MustCompile(`\{\{\s*(\w+)\s*\}\}`)
	labelValues = regexp.MustCompile(`^label_values\((.+), (\w+)\)$`)
)

// queries returns all expressions of the dashboard: of panels, annotations and variables.
func (d dashboard) queries(t testing.TB) (all []query) {
	t.Helper()
	add := func(where, expr string, legends ...string) {
		q := query{where: where, expr: variables.Replace(expr)}
		for _, legend := range legends {
			for _, found := range legendLabel.FindAllStringSubmatch(legend, -1) {
				q.legend = append(q.legend, found[1])
			}
		}
		if strings.Contains(q.expr, "$") {
			t.Errorf("%s: the tests do not know a variable of %s", where, expr)
		}
		all = append(all, q)
	}
	for _, p := range d.Panels {
		for _, target := range p.Targets {
			add(fmt.Sprintf("panel %q %s", p.Title, target.RefID), target.Expr, target.LegendFormat)
		}
	}
	for _, a := range d.Annotations.List {
		add("annotation "+a.Name, a.Expr, a.TitleFormat, a.TextFormat)
	}
	for _, v := range d.Templating.List {
		if v.Type != "query" {
			continue
		}
		parts := labelValues.FindStringSubmatch(v.Definition)
		if parts == nil {
			t.Errorf("variable %s: the tests do not understand %s", v.Name, v.Definition)
			continue
		}
		add("variable "+v.Name, parts[1], "{{"+parts[2]+"}}")
	}
	return all
}

// documented returns the expressions in the table of docs/monitoring.md.
func documented(t testing.TB) (all []query) {
	t.Helper()
	_, table, _ := strings.Cut(readFile(t, "../docs/monitoring.md"), "\n| I want to know | expression |\n|---|---|\n")
	table, _, _ = strings.Cut(table, "\n\n")
	for line := range strings.Lines(table) {
		question, answer, _ := strings.Cut(strings.Trim(line, "| \n"), " | ")
		if expr := strings.Trim(answer, "`"); expr != answer && !strings.Contains(expr, "`") {
			expr = strings.ReplaceAll(expr, ":1m]", ":1s]") // no whole minute has passed
			all = append(all, query{where: "docs/monitoring.md: " + question, expr: expr})
		}
	}
	if len(all) < 5 {
		t.Errorf("docs/monitoring.md has %d expressions", len(all))
	}
	return all
}

// The panels have ids and titles of their own, explain themselves, fill rows without
// overlapping, and ask the data source that the reader has chosen.
func TestDashboardIsWellFormed(t *testing.T) {
	d := readDashboard(t)
	var ids []int
	var titles []string
	taken := map[[2]int]string{}
	for _, p := range d.Panels {
		ids, titles = append(ids, p.ID), append(titles, p.Title)
		if len(p.Panels) > 0 {
			t.Errorf("%q has panels inside, which no test checks", p.Title)
		}
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				if other, is := taken[[2]int{x, y}]; is || x >= 24 {
					t.Fatalf("%q lies over %q, or ends beyond the 24 columns", p.Title, other)
				}
				taken[[2]int{x, y}] = p.Title
			}
		}
		if p.Type == "row" {
			continue
		}
		if len(p.Targets) == 0 || p.Description == "" || p.Datasource.UID != "${datasource}" {
			t.Errorf("%q: %d queries, description %q, data source %q", p.Title, len(p.Targets), p.Description, p.Datasource.UID)
		}
		for _, target := range p.Targets {
			if target.Datasource.UID != "${datasource}" {
				t.Errorf("%q %s asks %q", p.Title, target.RefID, target.Datasource.UID)
			}
		}
	}
	for name, n := range map[string]int{"ids": len(slices.Compact(slices.Sorted(slices.Values(ids)))), "titles": len(slices.Compact(slices.Sorted(slices.Values(titles))))} {
		if n != len(d.Panels) || n < 20 {
			t.Errorf("%d panels have %d %s", len(d.Panels), n, name)
		}
	}
}
