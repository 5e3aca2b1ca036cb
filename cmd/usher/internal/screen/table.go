package screen

import (
	"slices"
	"strings"

	"usher/proxy/printable"
)

// Column is a column of a Table.
type Column struct {
	Title string
	Right bool // numbers
	// Least is the number of columns of the terminal to which its texts may be shortened;
	// 0: they are not.
	Least int
	// End says that the end of its texts tells more than the beginning, which is left out
	// if they are shortened.
	End bool
}

// Cell is a text in a Table. It need not be printable.
type Cell struct {
	Text  string
	Style Style
}

// Table is a table. If the terminal is too narrow for it, its rows have two lines: the
// columns before Break, and the others below them.
type Table struct {
	Columns []Column
	Break   int // 0: rows have one line
	Rows    [][]Cell
}

// gap is between columns, indent before the second lines of rows.
const (
	gap    = "  "
	indent = "    "
)

// Add appends a row of plain texts.
func (t *Table) Add(texts ...string) {
	row := make([]Cell, len(texts))
	for i, text := range texts {
		row[i].Text = text
	}
	t.Rows = append(t.Rows, row)
}

// Drop leaves out the column with this title.
func (t *Table) Drop(title string) {
	at := slices.IndexFunc(t.Columns, func(c Column) bool { return c.Title == title })
	if at < 0 {
		return
	}
	t.Columns = slices.Delete(slices.Clone(t.Columns), at, at+1)
	for i, row := range t.Rows {
		t.Rows[i] = slices.Delete(row, at, at+1)
	}
	if at < t.Break {
		t.Break--
	}
}

// Text returns the lines of the table.
func (t Table) Text(s Screen) string {
	widths := t.widths()
	parts := []part{{0, len(t.Columns), ""}}
	if !t.shrink(widths, parts[0], s.Width) && t.Break > 0 {
		widths = t.widths()
		parts = []part{{0, t.Break, ""}, {t.Break, len(t.Columns), indent}}
		for _, p := range parts {
			t.shrink(widths, p, s.Width)
		}
	}
	var b strings.Builder
	title := make([]Cell, len(t.Columns))
	for i, c := range t.Columns {
		title[i] = Cell{c.Title, Bold}
	}
	t.write(&b, s, title, parts, widths)
	for _, row := range t.Rows {
		t.write(&b, s, row, parts, widths)
	}
	return b.String()
}

// part is a line of a row: the columns from..to.
type part struct {
	from, to int
	indent   string
}

// widths returns the columns of the terminal that each column wants.
func (t Table) widths() []int {
	widths := make([]int, len(t.Columns))
	for i, c := range t.Columns {
		widths[i] = columns(c.Title)
		for _, row := range t.Rows {
			widths[i] = max(widths[i], columns(printable.Text(row[i].Text)))
		}
	}
	return widths
}

// shrink makes the widest columns of a part narrower until it fits, and reports whether
// it does.
func (t Table) shrink(widths []int, p part, width int) bool {
	if width == 0 {
		return true
	}
	total := len(p.indent) + len(gap)*(p.to-p.from-1)
	for i := p.from; i < p.to; i++ {
		total += widths[i]
	}
	for ; total > width; total-- {
		widest := -1
		for i := p.from; i < p.to; i++ {
			least := max(t.Columns[i].Least, columns(t.Columns[i].Title))
			if t.Columns[i].Least > 0 && widths[i] > least && (widest < 0 || widths[i] > widths[widest]) {
				widest = i
			}
		}
		if widest < 0 {
			return false
		}
		widths[widest]--
	}
	return true
}

// write writes the lines of a row. Blanks at the end of a line are left out.
func (t Table) write(b *strings.Builder, s Screen, row []Cell, parts []part, widths []int) {
	for _, p := range parts {
		line, blanks := p.indent, ""
		for i := p.from; i < p.to; i++ {
			text := cut(printable.Text(row[i].Text), widths[i], t.Columns[i].End)
			fill := strings.Repeat(" ", max(widths[i]-columns(text), 0))
			text = s.Paint(row[i].Style, text)
			switch {
			case t.Columns[i].Right:
				line += blanks + fill + text
				blanks = gap
			case text == "":
				blanks += fill + gap
			default:
				line += blanks + text
				blanks = fill + gap
			}
		}
		b.WriteString(strings.TrimRight(line, " ") + "\n")
	}
}
