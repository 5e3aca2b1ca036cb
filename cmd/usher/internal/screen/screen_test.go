package screen

import (
	"context"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"usher/cmd/usher/internal/screen/screentest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// table is one of 40 columns.
func table() Table {
	t := Table{Break: 2, Columns: []Column{{Title: "NAME", Least: 6}, {Title: "N", Right: true}, {Title: "PLACE", Least: 8, End: true}}}
	t.Add("a long name", "1", "/etc/usher/sockd.conf:1:1")
	t.Add("日本語", "1234", "")
	return t
}

func TestTable(t *testing.T) {
	for width, want := range map[int]string{
		0:  "NAME            N  PLACE\na long name     1  /etc/usher/sockd.conf:1:1\n日本語       1234\n",
		44: "NAME            N  PLACE\na long name     1  /etc/usher/sockd.conf:1:1\n日本語       1234\n",
		30: "NAME            N  PLACE\na long name     1  …d.conf:1:1\n日本語       1234\n",
		24: "NAME         N  PLACE\na long …     1  …onf:1:1\n日本語    1234\n",
		20: "NAME            N\n    PLACE\na long name     1\n    …/sockd.conf:1:1\n日本語       1234\n\n",
		// Nothing can be shortened any more: the terminal breaks the lines.
		6: "NAME       N\n    PLACE\na lon…     1\n    …onf:1:1\n日本語  1234\n\n",
	} {
		if got := table().Text(Screen{Width: width}); got != want {
			t.Errorf("%d columns:\n%s\nwant\n%s", width, got, want)
		}
	}
}

func TestDrop(t *testing.T) {
	x := table()
	x.Drop("N")
	x.Drop("nothing")
	if got, want := x.Text(Screen{Width: 12}), "NAME\n    PLACE\na long name\n    …onf:1:1\n日本語\n\n"; got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
}

func TestWrap(t *testing.T) {
	for width, want := range map[int]string{0: "one two three", 7: "one two|three", 3: "one|two|three"} {
		if got := strings.Join(Wrap("one  two three", width), "|"); got != want {
			t.Errorf("%d: %s, want %s", width, got, want)
		}
	}
}

// Colours are for a terminal, unless the environment says no. COLUMNS is the width
// everywhere.
func TestNew(t *testing.T) {
	terminal := screentest.Open(t, 24, 80).Side
	file, err := os.Create(t.TempDir() + "/file")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for _, c := range []struct {
		out            *os.File
		environ        map[string]string
		colour, redraw bool
		width          int
	}{
		{terminal, nil, true, true, 80},
		{terminal, map[string]string{"NO_COLOR": "1"}, false, true, 80},
		{terminal, map[string]string{"NO_COLOR": ""}, true, true, 80},
		{terminal, map[string]string{"TERM": "dumb"}, false, false, 0},
		{terminal, map[string]string{"COLUMNS": "100"}, true, true, 100},
		{file, nil, false, false, 0},
		{file, map[string]string{"COLUMNS": "60"}, false, false, 60},
		{file, map[string]string{"COLUMNS": "wide"}, false, false, 0},
	} {
		s := New(c.out, c.environ)
		if s.Colour != c.colour || s.Terminal() != c.redraw || s.Width != c.width {
			t.Errorf("%v: colours %t, terminal %t, width %d", c, s.Colour, s.Terminal(), s.Width)
		}
		if coloured := strings.Contains(s.Paint(Bad, "x\x1b"), "\x1b"); coloured != c.colour {
			t.Errorf("%v: %q", c, s.Paint(Bad, "x\x1b"))
		}
	}
}

// On a terminal, a view replaces the one before, is cut at the height, follows the size,
// and is gone at the end.
func TestWatchOnATerminal(t *testing.T) {
	terminal := screentest.Open(t, 4, 80)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- New(terminal.Side, nil).Watch(ctx, time.Hour, func(_ context.Context, s Screen) string {
			return fmt.Sprintf("%d columns\n1\n2\n3\n4\n5\n", s.Width)
		})
	}()
	first := terminal.Await("... 3 more lines")
	if !strings.HasPrefix(first, enter+home+"80 columns"+toEnd+"\r\n1"+toEnd) || strings.Contains(first, "\n3") {
		t.Errorf("%q", first)
	}
	terminal.Resize(50, 60)
	if err := syscall.Kill(os.Getpid(), syscall.SIGWINCH); err != nil { // the terminal is not that of this process
		t.Fatal(err)
	}
	terminal.Await(home + "60 columns" + toEnd + "\r\n1" + toEnd + "\r\n2" + toEnd + "\r\n3" + toEnd + "\r\n4" + toEnd + "\r\n5" + toEnd + toLast)
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if last := terminal.Await(leave); !strings.HasSuffix(last, leave) {
		t.Errorf("%q", last)
	}
}

// On a pipe, views follow each other until a signal, and no escape sequence is written.
func TestWatchOnAPipe(t *testing.T) {
	var b strings.Builder
	n := 0
	err := New(&b, nil).Watch(t.Context(), time.Millisecond, func(context.Context, Screen) string {
		if n++; n == 3 {
			if err := syscall.Kill(os.Getpid(), syscall.SIGINT); err != nil {
				t.Fatal(err)
			}
		}
		return fmt.Sprintf("view %d\n", n)
	})
	if err != nil || !strings.HasPrefix(b.String(), "view 1\n\nview 2\n") || strings.Contains(b.String(), "\x1b") {
		t.Errorf("%v %q", err, b.String())
	}
}
