// Package inspect has the verbs that ask a cluster, through the API of any of its
// replicas: what they ask, and how often.
package inspect

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"usher/cmd/usher/internal/control"
	"usher/cmd/usher/internal/exit"
	"usher/cmd/usher/internal/screen"
	"usher/cmd/usher/internal/show"
	"usher/proxy/admin/api"
	"usher/proxy/printable"
)

// Caller is the part of the process that the verbs use.
type Caller struct {
	Screen screen.Screen
	Stderr io.Writer
	// Target returns the usher with an admin listener; "" is the one of the environment.
	Target func(admin string, timeout time.Duration) control.Target
}

// From says whom to ask.
type From struct {
	Admin   string        `help:"Address of the admin listener of any replica. Default: USHER_ADMIN_LISTEN." placeholder:"HOST:PORT"`
	Timeout time.Duration `help:"How long to wait for the answer." default:"5s"`
	JSON    bool          `name:"json" help:"Print the answer of the API: JSON for scripts."`
}

// Again says how often to ask.
type Again struct {
	Watch    bool          `short:"w" help:"Show it again and again, until Ctrl-C."`
	Interval time.Duration `default:"2s" help:"With --watch: the time from one view to the next, at least 100ms."`
}

// leastInterval bounds how often a replica is asked.
const leastInterval = 100 * time.Millisecond

// view is what one question has brought.
type view struct {
	text    string // for the screen that was given, or JSON
	missing []api.Missing
}

// question asks for a view.
type question func(context.Context, screen.Screen) (view, error)

// ask asks once, or again and again.
func (a Again) ask(ctx context.Context, c Caller, json bool, ask question) error {
	if a.Watch && a.Interval < leastInterval {
		return exit.Usage(fmt.Errorf("--interval %v: at least %v", a.Interval, leastInterval))
	}
	// The first answer decides: who has given a wrong address wants to know at once.
	v, err := ask(ctx, c.Screen)
	if err != nil {
		return err
	}
	if !a.Watch {
		_, err := io.WriteString(c.Screen.Out, v.text)
		warn(c.Stderr, v.missing)
		return err
	}
	return c.Screen.Watch(ctx, a.Interval, func(ctx context.Context, s screen.Screen) string {
		v, err := ask(ctx, s)
		if s.Terminal() && !json {
			return s.Paint(screen.Dim, fmt.Sprintf("%s, every %v, Ctrl-C ends", time.Now().Format(time.DateTime), a.Interval)) +
				"\n\n" + v.text + complaints(s, v.missing, err)
		}
		warn(c.Stderr, v.missing)
		if err != nil && ctx.Err() == nil {
			fmt.Fprintf(c.Stderr, "usher: %s\n", printable.Text(err.Error()))
		}
		return v.text
	})
}

// question is ask, with the API of the usher to ask. With --json, the text of the view
// is the answer itself.
func (f From) question(c Caller, ask func(context.Context, *api.Client, screen.Screen) (view, error)) question {
	return func(ctx context.Context, s screen.Screen) (view, error) {
		client, err := c.Target(f.Admin, f.Timeout).Client()
		if err != nil {
			return view{}, err
		}
		var raw []byte
		client.Body = func(text []byte) { raw = append(raw, text...) }
		v, err := ask(ctx, client, s)
		if f.JSON {
			v.text = string(printable.JSON(raw))
		}
		return v, err
	}
}

// warn names the replicas that are missing in an answer.
func warn(w io.Writer, missing []api.Missing) {
	for _, m := range missing {
		fmt.Fprintf(w, "usher: %s\n", show.Missing(m))
	}
}

// complaints is what is wrong with a view that is drawn again.
func complaints(s screen.Screen, missing []api.Missing, err error) string {
	var b strings.Builder
	for _, m := range missing {
		b.WriteString("\n" + s.Paint(screen.Warn, show.Missing(m)) + "\n")
	}
	if err != nil {
		b.WriteString("\n" + s.Paint(screen.Bad, err.Error()) + "\n")
	}
	return b.String()
}
