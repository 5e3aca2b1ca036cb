package screen

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

// What a terminal obeys.
const (
	enter  = "\x1b[?1049h\x1b[?25l\x1b[?7l" // the other screen; no cursor; long lines are cut
	leave  = "\x1b[?7h\x1b[?25h\x1b[?1049l"
	home   = "\x1b[H"
	toEnd  = "\x1b[K" // clears the line
	toLast = "\x1b[J" // clears the screen below
)

// Watch draws a view every pause until ctx ends, or SIGINT, SIGTERM or SIGHUP arrives;
// that is no failure. draw returns the view for a screen. On a terminal, each view
// replaces the one before, and is drawn anew when the size of the terminal changes.
// Elsewhere, views follow each other, with an empty line between.
func (s Screen) Watch(ctx context.Context, pause time.Duration, draw func(context.Context, Screen) string) error {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	resized := make(chan os.Signal, 1)
	signal.Notify(resized, syscall.SIGWINCH)
	defer signal.Stop(resized)
	if s.terminal != nil {
		fmt.Fprint(s.Out, enter)
		defer fmt.Fprint(s.Out, leave)
	}
	tick := time.NewTicker(pause)
	defer tick.Stop()
	for first := true; ; first = false {
		s.measure()
		view := draw(ctx, s)
		if ctx.Err() != nil {
			return nil
		}
		if err := s.show(view, first); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-resized:
		}
	}
}

// show writes a view.
func (s Screen) show(view string, first bool) error {
	if s.terminal == nil {
		if !first {
			view = "\n" + view
		}
		_, err := fmt.Fprint(s.Out, view)
		return err
	}
	lines := strings.Split(strings.TrimSuffix(view, "\n"), "\n")
	if s.Height > 1 && len(lines) > s.Height {
		more := len(lines) - s.Height + 1
		lines = append(lines[:s.Height-1], s.Paint(Dim, fmt.Sprintf("... %d more lines", more)))
	}
	// The last line has no line end, which would scroll a full screen.
	_, err := fmt.Fprint(s.Out, home+strings.Join(lines, toEnd+"\n")+toEnd+toLast)
	return err
}
