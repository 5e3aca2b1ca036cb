package control

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"usher/proxy/admin"
	"usher/proxy/printable"
)

// Print writes a status for people. It is escaped, as parts of it may come from Redis.
func Print(w io.Writer, st admin.Status) error {
	ready := "yes"
	if !st.Ready {
		ready = "no, " + st.Reason
	}
	rules := fmt.Sprintf("%s, generation %s, loaded %s", st.Rules.File, st.Rules.Generation, st.Rules.Loaded.Format(time.RFC3339))
	if !st.Rules.ReloadOK {
		rules += "\nLAST RELOAD FAILED: " + st.Rules.ReloadErr
	}
	if p := st.Rules.Published; p != nil {
		rules += "\n" + publishedLine(p)
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, row := range [][2]string{
		{"version", st.Version},
		{"replica", fmt.Sprintf("%s, process %d", st.Replica, st.PID)},
		{"started", st.Started.Format(time.RFC3339)},
		{"ready", ready},
		{"listening at", strings.Join(st.Listen, ", ")},
		{"sessions here", fmt.Sprint(st.Sessions)},
		{"rules", rules},
		{"store", storeLine(st.Store)},
	} {
		fmt.Fprintf(t, "%s\t%s\n", row[0], cells(row[1]))
	}
	printLimits(t, st.Rules.Limits)
	return t.Flush()
}

// printLimits prints a row for each limit, with the pools if there are any.
func printLimits(w io.Writer, limits []admin.RuleLimit) {
	pools := slices.ContainsFunc(limits, func(l admin.RuleLimit) bool { return l.Pool != "" })
	row := func(rule, name, pool, generation, sessions, limit, location string) {
		if pools {
			name += "\t" + pool
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", rule, name, generation, sessions, limit, location)
	}
	if len(limits) > 0 {
		fmt.Fprintln(w)
		row("RULE", "NAME", "POOL", "GENERATION", "SESSIONS", "LIMIT", "LOCATION")
	}
	for _, l := range limits {
		limit := "-"
		if l.Max >= 0 {
			limit = fmt.Sprint(l.Max)
		}
		if l.Mode == "report" {
			limit += " (report)"
		}
		row(cells(l.Rule), cells(l.Name), cells(cmp.Or(l.Pool, "-")), cells(l.Generation), fmt.Sprint(l.Sessions), limit, cells(l.Location))
	}
}

func publishedLine(p *admin.Published) string {
	line := fmt.Sprintf("published: generation %d in force, newest %d", p.Number, p.Newest)
	if p.Refused != 0 {
		line += fmt.Sprintf("\nGENERATION %d REFUSED: %s", p.Refused, p.Reason)
	}
	if p.Trouble != "" {
		line += "\nCANNOT READ PUBLISHED RULES: " + p.Trouble
	}
	if len(p.Silent) > 0 {
		line += "\nnot following: " + strings.Join(p.Silent, ", ")
	}
	return line
}

// cells makes a text safe for a terminal and indents further lines as cells of the
// second column.
func cells(text string) string {
	return strings.ReplaceAll(printable.Lines(text), "\n", "\n\t")
}

func storeLine(s admin.Store) string {
	state := "not joined"
	switch {
	case s.Mismatch != "":
		state = "refused, other replicas have conflicting lease settings: " + s.Mismatch
	case s.Joined && s.Recovering:
		state = "joined, recovering: it confirms no new sessions yet"
	case s.Joined:
		state = "joined"
	}
	line := fmt.Sprintf("%s, %s, replicas %d, generations %d", s.Address, state, s.ReplicaCount, s.Generations)
	if s.Failure != "" {
		line += "\n" + s.Failing()
	}
	return line
}
