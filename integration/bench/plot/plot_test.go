package plot

import (
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"
)

// A plot is well-formed XML with all its names, and nothing is drawn outside of it.
func TestPlot(t *testing.T) {
	p := Plot{Title: "CPU < time", X: "clients", Y: "µs", Lines: []Line{
		{"usher", []Point{{1, 270}, {64, 167}, {256, 170}}},
		{"danted & co", []Point{{1, 370}, {64, 3000}}},
	}}
	svg, err := p.svg()
	if err != nil {
		t.Fatal(err)
	}
	var texts []string
	for d := xml.NewDecoder(strings.NewReader(string(svg))); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if text, ok := token.(xml.CharData); ok && strings.TrimSpace(string(text)) != "" {
			texts = append(texts, string(text))
		}
	}
	got := strings.Join(texts, "|")
	if want := "CPU < time|clients|µs|1|64|256|100|200|500|1000|2000|5000|usher|danted & co"; got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	if strings.Contains(string(svg), "-0.") || strings.Contains(string(svg), "NaN") || strings.Contains(string(svg), "Inf") {
		t.Errorf("something is outside:\n%s", svg)
	}
}

func TestPlotOfNothing(t *testing.T) {
	for _, points := range [][]Point{nil, {{0, 1}}, {{1, 0}}} {
		if _, err := (Plot{Lines: []Line{{"usher", points}}}).svg(); err == nil {
			t.Errorf("%v was drawn", points)
		}
	}
}
