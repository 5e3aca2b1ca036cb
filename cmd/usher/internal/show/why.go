package show

import (
	"fmt"
	"strings"
	"time"

	"usher/cmd/usher/internal/screen"
	"usher/proxy/decide"
	"usher/proxy/record"
)

// mostHolders bounds the clients and users that a case names.
const mostHolders = 8

// Why prints the cases of a client or user. remembered is how many refusals the replicas
// have told.
func Why(s screen.Screen, subject string, total int, cases []Case, now time.Time) string {
	if len(cases) == 0 {
		text := fmt.Sprintf("no refusal of %s is known. Each replica remembers its last thousand refusals since its start; older ones are in the log.", subject)
		return strings.Join(screen.Wrap(text, s.Width), "\n") + "\n"
	}
	last := cases[0]
	texts := []string{fmt.Sprintf("%s was refused %s, last %s ago.\n", s.Paint(screen.Bold, subject), times(total), since(last.Time, now))}
	left := total
	for _, c := range cases {
		texts = append(texts, c.text(s, now))
		left -= c.Times
	}
	if left > 0 {
		texts = append(texts, s.Paint(screen.Dim, fmt.Sprintf("%d of the %d refusals are not shown; --limit shows more kinds of them", left, total))+"\n")
	}
	return strings.Join(texts, "\n")
}

func times(n int) string {
	if n == 1 {
		return "once"
	}
	return fmt.Sprintf("%d times", n)
}

// text prints one case: what was asked, why it was refused, who holds the slots, and what
// to do.
func (c Case) text(s screen.Screen, now time.Time) string {
	var b strings.Builder
	title := clock(c.Time, now) + ", " + since(c.Time, now) + " ago"
	if c.Times > 1 {
		title += fmt.Sprintf("; %d times since %s", c.Times, clock(c.First, now))
	}
	b.WriteString(s.Paint(screen.Bold, title) + "\n")
	facts := func(name string, style screen.Style, lines ...string) {
		for _, text := range lines {
			for _, line := range screen.Wrap(text, max(s.Width-12, min(s.Width, 20))) {
				fmt.Fprintf(&b, "  %s %s\n", s.Paint(screen.Dim, fmt.Sprintf("%-9s", name)), s.Paint(style, line))
				name = ""
			}
		}
	}
	facts("request", screen.Plain, c.request())
	facts("reason", screen.Bad, c.reason())
	facts("rule", screen.Plain, c.rule())
	if c.Held != nil {
		facts("then", screen.Plain, c.then())
	}
	if c.ByLimit() {
		facts("now", screen.Plain, c.now()...)
	}
	facts("to do", screen.Good, c.remedy()...)
	return b.String()
}

// request says what the client wanted, and where.
func (c Case) request() string {
	words := []string{"from", person(c.Client.Addr(), c.User)}
	if c.Target != "" {
		command := c.Command
		if command == "" {
			command = "connect"
		}
		words = append([]string{command, "to", c.Target}, words...)
	}
	if c.Replica != "" {
		words = append(words, "on", c.Replica)
	}
	return strings.Join(words, " ")
}

// reason says why it was refused, with the details of the log line.
func (c Case) reason() string {
	text := c.Reason
	if e, ok := record.Explain(c.Reason); ok {
		text += ": " + e.Why
	}
	if c.Error != "" && c.Error != decide.ErrBlocked.Error() && !strings.HasSuffix(text, c.Error) {
		text += " (" + c.Error + ")"
	}
	return text
}

// rule says where the rule is that decided.
func (c Case) rule() string {
	position, name, location := judge(c.Session)
	if position == "" {
		return "none matched it"
	}
	text := ruleName(position, name) + " at " + location
	if c.Pool != "" {
		text += ", pool " + c.Pool
	}
	return text + ", generation " + c.Generation
}

// then says what the limit held when it refused the session.
func (c Case) then() string {
	text := fmt.Sprintf("%d of %d sessions", c.Held.Sessions, c.Held.Max)
	if c.byKey() {
		text += " of " + c.LimitKey
	}
	if c.Held.Here >= 0 {
		text += fmt.Sprintf(", %d of them on %s", c.Held.Here, c.Replica)
	}
	if len(c.Held.Holders) > 0 {
		text += ": " + people(c.Held.Holders, "")
	}
	return text
}

// now says what the limit holds now, and who holds it.
func (c Case) now() []string {
	if c.Limit == nil {
		return []string{"this limit is no longer in force"}
	}
	var text string
	switch {
	case c.byKey():
		text = fmt.Sprintf("%d of %d sessions of %s", len(c.Holding), c.max(), c.LimitKey)
	default:
		text = fmt.Sprintf("%d of %d sessions", c.Limit.Sessions, c.max())
	}
	if parts := shares(c.Limit.Shares); parts != "" && !c.byKey() {
		text += ": " + parts
	}
	if !c.Limit.Current {
		text += "; other rules are in force for new sessions"
	}
	lines := []string{text}
	list := c.holders()
	if len(list) == 0 {
		return lines
	}
	held := people(list[:min(mostHolders, len(list))], "")
	if more := len(list) - mostHolders; more > 0 {
		held += fmt.Sprintf(" and %d more", more)
	}
	return append(lines, "held by "+held)
}

// remedy says what to do.
func (c Case) remedy() (lines []string) {
	if c.ByLimit() && c.Limit != nil && c.free() {
		lines = append(lines, "slots are free now: the client can try again")
	} else if e, ok := record.Explain(c.Reason); ok && e.Remedy != "" {
		lines = append(lines, e.Remedy)
	}
	if c.ByLimit() && !c.free() && len(c.Holding) > 0 {
		r := c.Holding[0]
		lines = append(lines, fmt.Sprintf("usher end %s ends the session that is idle longest: %s to %s, idle %s, age %s",
			r.ID, person(r.Client.Addr(), r.User), target(r.Session), seconds(r.IdleSeconds), seconds(r.Seconds)))
	}
	if c.Reason == "blocked" && c.Target != "" && c.Client.IsValid() {
		words := []string{"usher explain", c.Client.Addr().String()}
		if c.User != "" {
			words = append(words, c.User)
		}
		words = append(words, c.Target)
		if c.Command != "" && c.Command != "connect" {
			words = append(words, c.Command)
		}
		lines = append(lines, strings.Join(words, " "))
	}
	if len(lines) == 0 {
		lines = append(lines, "nothing: this is no failure of Usher")
	}
	return lines
}

// free reports whether the limit has slots now.
func (c Case) free() bool {
	switch {
	case c.Limit == nil || c.max() < 0:
		return false
	case c.byKey():
		return int64(len(c.Holding)) < c.max()
	}
	return c.Limit.Sessions < c.max()
}
