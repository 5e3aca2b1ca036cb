package publish

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"usher/proxy/printable"
	"usher/store/published"
)

// List has the published generations, and the replicas that follow.
type List struct {
	Generations []Generation       `json:"generations"` // the newest first
	Replicas    []published.Report `json:"replicas"`
	Silent      []string           `json:"not_following"` // members with rule files of their own
}

// Generation is a generation, and where it is in force.
type Generation struct {
	published.Kept
	Newest   bool `json:"newest"`
	Replicas int  `json:"replicas"` // on which it is in force
	Sessions int  `json:"sessions"` // that it has admitted
}

// NewList asks the store.
func NewList(ctx context.Context, conn published.Conn) (list List, err error) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	kept, err := conn.Generations(ctx)
	if err != nil {
		return list, err
	}
	all, err := conn.Replicas(ctx)
	if err != nil {
		return list, err
	}
	list = List{Generations: []Generation{}, Replicas: all.Reports, Silent: all.Silent}
	for i, k := range kept {
		g := Generation{Kept: k, Newest: i == 0}
		for _, r := range all.Reports {
			g.Sessions += r.Sessions[k.Number]
			if r.Number == k.Number {
				g.Replicas++
			}
		}
		list.Generations = append(list.Generations, g)
	}
	return list, nil
}

// Print prints the list as tables.
func (l List) Print(w io.Writer) error {
	if len(l.Generations) == 0 {
		fmt.Fprintln(w, "nothing is published; publish rules with usher apply FILE")
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	if len(l.Generations) > 0 {
		fmt.Fprintln(t, "NUMBER\tDIGEST\tPUBLISHED\tSIGNED\tREPLICAS\tSESSIONS\tMESSAGE")
	}
	for _, g := range l.Generations {
		digest, when, signed, message := g.Digest, g.When.Format(time.RFC3339), "no", g.Message
		if len(g.Signature) > 0 {
			signed = "yes"
		}
		if g.Unreadable != "" {
			digest, when, signed, message = "-", "-", "-", "unreadable: "+g.Unreadable
		}
		fmt.Fprintf(t, "%d\t%s\t%s\t%s\t%d\t%d\t%s\n", g.Number, printable.Text(digest), when, signed, g.Replicas, g.Sessions, printable.Text(message))
	}
	if len(l.Replicas) > 0 {
		fmt.Fprintln(t, "\nREPLICA\tGENERATION\tSESSIONS\tSTATE")
	}
	for _, r := range l.Replicas {
		fmt.Fprintf(t, "%s\t%d\t%d\t%s\n", printable.Text(r.Name), r.Number, sum(r.Sessions), strings.ReplaceAll(printable.Lines(l.state(r)), "\n", "\n\t\t\t"))
	}
	for _, id := range l.Silent {
		fmt.Fprintf(t, "%s\t-\t-\thas a rule file of its own\n", printable.Text(id))
	}
	return t.Flush()
}

// state describes the state of a replica.
func (l List) state(r published.Report) string {
	switch {
	case r.Number == 0 && r.Refused == 0:
		return "waits for rules"
	case r.Refused != 0:
		return fmt.Sprintf("refuses generation %d: %s", r.Refused, r.Reason)
	case len(l.Generations) == 0 || r.Number == l.Generations[0].Number:
		return "follows"
	}
	return "not on the newest generation yet"
}

func sum(sessions map[uint64]int) (n int) {
	for _, one := range sessions {
		n += one
	}
	return n
}

// PrintText prints the text of a generation, 0 of the newest one.
func PrintText(ctx context.Context, w io.Writer, conn published.Conn, number uint64) error {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	if number == 0 {
		list, err := conn.Generations(ctx)
		if err != nil {
			return err
		}
		if len(list) == 0 {
			return errors.New("nothing is published; publish rules with usher apply FILE")
		}
		number = list[0].Number
	}
	t, err := conn.Text(ctx, number)
	if err != nil {
		return err
	}
	if t == nil {
		return fmt.Errorf("generation %d is not kept; usher generations lists those that are", number)
	}
	_, err = io.WriteString(w, shown(t.Rules))
	return err
}

// shown returns a text of rules that is safe for a terminal. Anybody who can write to
// the store may have put other text there.
func shown(rules string) string {
	lines := strings.Split(strings.ReplaceAll(rules, "\r\n", "\n"), "\t") // tabs are harmless
	for i := range lines {
		lines[i] = printable.Lines(lines[i])
	}
	return strings.Join(lines, "\t")
}
