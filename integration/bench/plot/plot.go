// Package plot draws lines as SVG: a value against a number of clients, sessions or
// callers, one line for each program that was measured.
package plot

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"math"
	"os"
	"slices"
	"strconv"
)

// Plot is a diagram. Both axes are logarithmic: the load grows by factors, and what
// programs cost differs by factors.
type Plot struct {
	Title, X, Y string // the title, and what the axes show with its unit
	Lines       []Line
}

// Line is what was measured of one program. Points are in the order of X, and all values
// are positive.
type Line struct {
	Name   string
	Points []Point
}

// Point is a value at a load.
type Point struct{ X, Y float64 }

// Sizes in pixels.
const (
	width, height           = 720, 420
	left, right, top, below = 70, 150, 50, 60
)

// colours can be told apart by most people who see fewer colours (Okabe and Ito).
var colours = []string{"#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"}

// WriteFile draws p into a file.
func (p Plot) WriteFile(name string) error {
	svg, err := p.svg()
	if err != nil {
		return err
	}
	return os.WriteFile(name, svg, 0o644)
}

func (p Plot) svg() ([]byte, error) {
	var xs, ys []float64
	for _, l := range p.Lines {
		for _, at := range l.Points {
			xs, ys = append(xs, at.X), append(ys, at.Y)
		}
	}
	if len(xs) == 0 || slices.Min(xs) <= 0 || slices.Min(ys) <= 0 {
		return nil, fmt.Errorf("%s: a logarithmic axis needs positive values", p.Title)
	}
	slices.Sort(xs)
	d := drawing{x: axis{low: xs[0], high: xs[len(xs)-1], from: left, to: width - right}, y: axis{from: height - below, to: top}}
	d.y.low, d.y.high = around(slices.Min(ys), slices.Max(ys))
	d.printf(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="13">`+"\n", width, height)
	d.printf(`<rect width="%d" height="%d" fill="white"/>`+"\n", width, height)
	d.text(width/2, top/2, "middle", "", p.Title)
	d.text((left+width-right)/2, height-15, "middle", "", p.X)
	d.text(18, (top+height-below)/2, "middle", fmt.Sprintf(` transform="rotate(-90 18 %d)"`, (top+height-below)/2), p.Y)
	for _, x := range slices.Compact(xs) {
		d.line(d.x.at(x), top, d.x.at(x), height-below)
		d.text(d.x.at(x), height-below+20, "middle", "", number(x))
	}
	for y := d.y.low; y <= d.y.high*1.001; y = next(y) {
		d.line(left, d.y.at(y), width-right, d.y.at(y))
		d.text(left-8, d.y.at(y)+4, "end", "", number(y))
	}
	for i, l := range p.Lines {
		d.curve(l, colours[i%len(colours)], i)
	}
	d.printf("</svg>\n")
	return d.Bytes(), nil
}

// axis maps values to pixels, by their logarithm.
type axis struct{ low, high, from, to float64 }

func (a axis) at(v float64) float64 {
	if a.low == a.high {
		return (a.from + a.to) / 2
	}
	return a.from + (a.to-a.from)*math.Log(v/a.low)/math.Log(a.high/a.low)
}

// steps are the first digits of the marks at the axis of values.
var steps = []float64{1, 2, 5, 10}

// around returns the marks below and above all values.
func around(low, high float64) (first, last float64) {
	ten := math.Pow(10, math.Floor(math.Log10(low)))
	for _, s := range steps {
		if s*ten <= low {
			first = s * ten
		}
	}
	for last = next(first); last < high; {
		last = next(last)
	}
	return first, last
}

// next returns the mark after one.
func next(mark float64) float64 {
	ten := math.Pow(10, math.Floor(math.Log10(mark*1.001)))
	for _, s := range steps {
		if s*ten > mark*1.001 {
			return s * ten
		}
	}
	return 20 * ten
}

func number(v float64) string { return strconv.FormatFloat(v, 'g', 4, 64) }

// drawing is the text of an SVG file.
type drawing struct {
	bytes.Buffer
	x, y axis
}

func (d *drawing) printf(format string, a ...any) { fmt.Fprintf(d, format, a...) }

func (d *drawing) text(x, y float64, anchor, more, s string) {
	d.printf(`<text x="%.1f" y="%.1f" text-anchor="%s"%s>`, x, y, anchor, more)
	_ = xml.EscapeText(d, []byte(s)) // a buffer takes everything
	d.printf("</text>\n")
}

func (d *drawing) line(x1, y1, x2, y2 float64) {
	d.printf(`<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="#ddd"/>`+"\n", x1, y1, x2, y2)
}

// curve draws a line, and its name in the legend.
func (d *drawing) curve(l Line, colour string, place int) {
	d.printf(`<polyline fill="none" stroke="%s" stroke-width="2" points="`, colour)
	for _, p := range l.Points {
		d.printf("%.1f,%.1f ", d.x.at(p.X), d.y.at(p.Y))
	}
	d.printf("\"/>\n")
	for _, p := range l.Points {
		d.printf(`<circle cx="%.1f" cy="%.1f" r="3" fill="%s"/>`+"\n", d.x.at(p.X), d.y.at(p.Y), colour)
	}
	y := float64(top + 10 + 20*place)
	d.printf(`<rect x="%d" y="%.1f" width="12" height="12" fill="%s"/>`+"\n", width-right+15, y-10, colour)
	d.text(width-right+33, y, "start", "", l.Name)
}
