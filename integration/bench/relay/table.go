package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
)

// of is what was measured, and of whom.
type of struct{ what, peer string }

// results are the values, one a round.
type results map[of][]float64

// print writes a table of what peers cost, and one of the times that clients see.
func (r results) print(w io.Writer, list []measurement) {
	var cost, time []string
	for _, m := range list {
		for _, what := range m.of {
			if strings.Contains(what, elapsed) {
				time = append(time, what)
			} else {
				cost = append(cost, what)
			}
		}
	}
	r.table(w, cost, func(p *peer) bool { return slices.Contains(p.can, ownProcess) || p.name == "before" })
	fmt.Fprintln(w)
	r.table(w, time, func(*peer) bool { return true })
}

// table writes the values of some peers as Markdown: the median of the rounds, and in
// brackets the least and the most.
func (r results) table(w io.Writer, rows []string, with func(*peer) bool) {
	head, line := "|", "|---|"
	var columns []*peer
	for _, p := range peers {
		if with(p) {
			columns = append(columns, p)
			head += " | " + p.name
			line += "---|"
		}
	}
	for _, p := range columns[1:] {
		head += " | usher / " + p.name
		line += "---|"
	}
	fmt.Fprintf(w, "%s |\n%s\n", head, line)
	for _, row := range rows {
		usher := r[of{row, "usher"}]
		if len(usher) == 0 {
			continue
		}
		cells := []string{row}
		for _, p := range columns {
			cells = append(cells, spread("%.3g", r[of{row, p.name}]))
		}
		for _, p := range columns[1:] {
			cells = append(cells, spread("%.2fx", ratios(usher, r[of{row, p.name}])))
		}
		fmt.Fprintf(w, "| %s |\n", strings.Join(cells, " | "))
	}
}

// ratios divides the values of the same round.
func ratios(a, b []float64) (list []float64) {
	for i, v := range b {
		if v > 0 {
			list = append(list, a[i]/v)
		}
	}
	return list
}

// spread is the median of values, and their range if they differ.
func spread(format string, values []float64) string {
	if len(values) == 0 {
		return "-"
	}
	number := func(v float64) string { return fmt.Sprintf(format, v) }
	least, most := number(slices.Min(values)), number(slices.Max(values))
	if least == most {
		return least
	}
	return fmt.Sprintf("%s (%s to %s)", number(median(values)), least, most)
}

// median returns the middle one of values, at least one.
func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}
