package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"usher/cmd/usher/internal/exit"
	"usher/proxy/printable"
	"usher/store/published"
)

type generationsCmd struct {
	Number uint64 `arg:"" optional:"" help:"With --text: the generation to print. Default: the newest."`
	Text   bool   `xor:"form" help:"Print the text of a generation, and nothing else. What is not printable is escaped."`
	JSON   bool   `name:"json" xor:"form" help:"Print JSON."`
}

// Help is shown under usher generations --help.
func (generationsCmd) Help() string {
	return `Lists the rules that are published in the store of USHER_STORE for USHER_CLUSTER: the newest generation is the one to be in force. Then lists the replicas that follow, and why one of them is not on the newest generation.

Exit codes: 0 success, 1 the store cannot be asked or has no such generation, 2 wrong arguments or a wrong variable.`
}

// generationList is printed with --json.
type generationList struct {
	Generations []publishedGeneration `json:"generations"` // the newest first
	Replicas    []published.Report    `json:"replicas"`
	Silent      []string              `json:"not_following"` // members with rule files of their own
}

// publishedGeneration is a generation and where it is in force.
type publishedGeneration struct {
	published.Generation
	Newest   bool `json:"newest"`
	Replicas int  `json:"replicas"` // on which it is in force
	Sessions int  `json:"sessions"` // that began with it
}

// Run lists what is published, or prints one text.
func (g generationsCmd) Run(ctx context.Context, sys system) error {
	_, st, err := publishedStore(sys)
	if err != nil {
		return err
	}
	defer st.Close()
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	conn, err := st.Published(ctx)
	if err != nil {
		return fmt.Errorf("the store: %w", err)
	}
	defer conn.Close()
	if g.Text {
		return g.printText(ctx, sys, conn)
	}
	if g.Number != 0 {
		return exit.Usage(errors.New("a number goes with --text"))
	}
	list, err := listGenerations(ctx, conn)
	if err != nil {
		return err
	}
	if g.JSON {
		return printJSON(sys.stdout, list)
	}
	return list.print(sys.stdout)
}

func (g generationsCmd) printText(ctx context.Context, sys system, conn published.Conn) error {
	number := g.Number
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
	_, err = io.WriteString(sys.stdout, shown(t.Rules))
	return err
}

// shown is a text of rules as a terminal may show it: whoever can write to the store
// may have put more than rules there.
func shown(rules string) string {
	lines := strings.Split(strings.ReplaceAll(rules, "\r\n", "\n"), "\t") // tabs are harmless
	for i := range lines {
		lines[i] = printable.Lines(lines[i])
	}
	return strings.Join(lines, "\t")
}

func listGenerations(ctx context.Context, conn published.Conn) (list generationList, err error) {
	kept, err := conn.Generations(ctx)
	if err != nil {
		return list, err
	}
	all, err := conn.Replicas(ctx)
	if err != nil {
		return list, err
	}
	list = generationList{Generations: []publishedGeneration{}, Replicas: all.Reports, Silent: all.Silent}
	for i, k := range kept {
		g := publishedGeneration{Generation: k, Newest: i == 0}
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

func (l generationList) print(w io.Writer) error {
	if len(l.Generations) == 0 {
		fmt.Fprintln(w, "nothing is published; publish rules with usher apply FILE")
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	if len(l.Generations) > 0 {
		fmt.Fprintln(t, "NUMBER\tDIGEST\tPUBLISHED\tSIGNED\tREPLICAS\tSESSIONS\tMESSAGE")
	}
	for _, g := range l.Generations {
		signed := "no"
		if len(g.Signature) > 0 {
			signed = "yes"
		}
		fmt.Fprintf(t, "%d\t%s\t%s\t%s\t%d\t%d\t%s\n", g.Number, printable.Text(g.Digest), g.When.Format(time.RFC3339), signed, g.Replicas, g.Sessions, printable.Text(g.Message))
	}
	if len(l.Replicas) > 0 {
		fmt.Fprintln(t, "\nREPLICA\tGENERATION\tSESSIONS\tSTATE")
	}
	for _, r := range l.Replicas {
		fmt.Fprintf(t, "%s\t%d\t%d\t%s\n", printable.Text(r.Name), r.Number, sum(r.Sessions), cells(l.state(r)))
	}
	for _, id := range l.Silent {
		fmt.Fprintf(t, "%s\t-\t-\thas a rule file of its own\n", printable.Text(id))
	}
	return t.Flush()
}

// state says how a replica stands.
func (l generationList) state(r published.Report) string {
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
