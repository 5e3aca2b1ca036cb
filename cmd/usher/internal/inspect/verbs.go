package inspect

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"usher/cmd/usher/internal/exit"
	"usher/cmd/usher/internal/screen"
	"usher/cmd/usher/internal/show"
	"usher/proxy/admin/api"
	"usher/proxy/record"
)

// Filter selects sessions or refusals.
type Filter struct {
	Rule       string `help:"Only those of this rule: its position (s1) or name." complete:"rule"`
	User       string `help:"Only those of this user." complete:"user"`
	Client     string `help:"Only those of this client address or network." placeholder:"ADDRESS" complete:"client"`
	Target     string `help:"Only those whose target contains this text."`
	Replica    string `help:"Only those on this replica." complete:"replica"`
	Generation string `help:"Only those of this generation of rules, such as g2-0833acf5." complete:"generation"`
}

func (f Filter) query() (q api.Query, err error) {
	q = api.Query{Rule: f.Rule, User: f.User, Target: f.Target, Replica: f.Replica, Generation: f.Generation}
	if f.Client == "" {
		return q, nil
	}
	if q.Client, err = prefix(f.Client); err != nil {
		return q, exit.Usage(fmt.Errorf("--client %q is neither an address nor a network such as 192.0.2.0/24", f.Client))
	}
	return q, nil
}

// prefix reads an address or a network.
func prefix(text string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(text); err == nil {
		a = a.Unmap().WithZone("")
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	return netip.ParsePrefix(text)
}

// oneOf checks the value of a flag, if it is given.
func oneOf(flag, value string, accepted []string) error {
	const most = 50 // a file may have many rules
	if value == "" || slices.Contains(accepted, value) {
		return nil
	}
	if n := len(accepted); n > most {
		accepted = append(accepted[:most:most], fmt.Sprintf("%d more", n-most))
	}
	return exit.Usage(fmt.Errorf("%s %q is none of %s", flag, value, strings.Join(accepted, ", ")))
}

// check finds rules, replicas and generations that do not exist. It is asked when a filter
// has selected nothing and all replicas have answered: refusals outlive what they name.
func (f Filter) check(ctx context.Context, client *api.Client) error {
	asking := *client
	asking.Body = nil // it is no part of the answer
	for kind, value := range map[string]string{"rule": f.Rule, "replica": f.Replica, "generation": f.Generation} {
		if value == "" {
			continue
		}
		var known []string
		for _, c := range ask(ctx, &asking, kind) {
			known = append(known, c.Value)
			if kind == "rule" {
				known = append(known, c.Help) // its name
			}
		}
		slices.Sort(known)
		if known = slices.Compact(known); len(known) == 0 {
			continue // nobody has answered
		}
		if err := oneOf("--"+kind, value, known); err != nil {
			return err
		}
	}
	return nil
}

// Sessions is usher sessions.
type Sessions struct {
	From
	Filter
	State string `help:"Only those in this state: negotiating, opening, relaying or associated." complete:"state"`
	Sort  string `help:"Order: ${enum}." placeholder:"ORDER" enum:"began,client,user,target,rule,replica,idle,bytes" default:"began"`
	Desc  bool   `help:"Largest or latest first."`
	Limit int    `help:"How many sessions to print, at most 1000." default:"100"`
	Again
}

// Help is shown under usher sessions --help.
func (Sessions) Help() string {
	return `Lists the sessions of all replicas. RULE is the rule that decided last: the socks-rule, or the client-rule before the request is judged. AGE is the time since the client connected, IDLE the time since a byte was relayed, UP and DOWN the bytes to the target and from it, in units of 1000.

Exit codes: 0 success, 1 no answer, 2 wrong arguments. Replicas that did not answer are named on the standard error.`
}

// Run lists sessions.
func (v Sessions) Run(ctx context.Context, c Caller) error {
	q, err := v.query()
	if err != nil {
		return err
	}
	if err := oneOf("--state", v.State, record.States()); err != nil {
		return err
	}
	q.State, q.Sort, q.Descending = v.State, v.Sort, v.Desc
	if q.Limit, err = page(v.Limit); err != nil {
		return err
	}
	return v.ask(ctx, c, v.JSON, v.question(c, func(ctx context.Context, client *api.Client, s screen.Screen) (view, error) {
		a, err := client.Sessions(ctx, q)
		if err == nil && a.Total+len(a.Missing) == 0 {
			err = v.check(ctx, client)
		}
		return view{show.Sessions(s, a), a.Missing}, err
	}))
}

// page checks a number of lines.
func page(n int) (int, error) {
	if n < 1 || n > api.MaxLimit {
		return 0, exit.Usage(fmt.Errorf("--limit %d: from 1 to %d", n, api.MaxLimit))
	}
	return n, nil
}

// Limits is usher limits.
type Limits struct {
	From
	Again
}

// Help is shown under usher limits --help.
func (Limits) Help() string {
	return `Lists each rule with a limit. SESSIONS are those of all replicas, as the store counts them; REPLICAS says how many each replica holds. REFUSED 1M counts the last minute. HIGHEST is the highest number that was seen since the replicas have started, and AT when. Below the table: who holds the slots of limits that are nearly full, and the fullest keys of limits by client or user. "At least" says that some replica has not told all of them.

A rule with session.mode: report refuses nobody. REFUSED 1M then shows how many it would have refused since its rules came into force.

Exit codes: 0 success, 1 no answer, 2 wrong arguments. Replicas that did not answer are named on the standard error.`
}

// Run lists limits.
func (v Limits) Run(ctx context.Context, c Caller) error {
	return v.ask(ctx, c, v.JSON, v.question(c, func(ctx context.Context, client *api.Client, s screen.Screen) (view, error) {
		a, err := client.Limits(ctx)
		return view{show.Limits(s, a, a.Time.Local()), a.Missing}, err
	}))
}

// Refusals is usher refusals.
type Refusals struct {
	From
	Filter
	Reason string `help:"Only those for this reason, such as limit or blocked." complete:"reason"`
	Limit  int    `help:"How many refusals to print, at most 1000." default:"20"`
	Again
}

// Help is shown under usher refusals --help.
func (Refusals) Help() string {
	return `Lists the last refusals of all replicas, newest first. HELD is what the limit held when it refused the session, and its maximum. Each replica remembers its last thousand refusals since it started.

Exit codes: 0 success, 1 no answer, 2 wrong arguments. Replicas that did not answer are named on the standard error.`
}

// Run lists refusals.
func (v Refusals) Run(ctx context.Context, c Caller) error {
	q, err := v.query()
	if err != nil {
		return err
	}
	if err := oneOf("--reason", v.Reason, record.Reasons()); err != nil {
		return err
	}
	q.Reason = v.Reason
	if q.Limit, err = page(v.Limit); err != nil {
		return err
	}
	return v.ask(ctx, c, v.JSON, v.question(c, func(ctx context.Context, client *api.Client, s screen.Screen) (view, error) {
		a, err := client.Refusals(ctx, q)
		if err == nil && a.Total+len(a.Missing) == 0 {
			err = v.check(ctx, client)
		}
		return view{show.Refusals(s, a, a.Time.Local()), a.Missing}, err
	}))
}

// End is usher end.
type End struct {
	Session     []string `arg:"" optional:"" help:"Sessions to end, see usher sessions." complete:"session"`
	NotAdmitted bool     `help:"End all sessions that the rules in force would not admit."`
	Generation  string   `help:"End all sessions of this old generation of rules." complete:"generation"`
	From
}

// Help is shown under usher end --help.
func (End) Help() string {
	return `Ends sessions on all replicas. The client and the target see their connections closed, and the slots are free at once. The reason in the log is ended.

The admin listener ends sessions only for those who know its token: USHER_ADMIN_TOKEN, or a file that USHER_ADMIN_TOKEN_FILE names, the same as on the replicas.

Exit codes: 0 the sessions are ended, 1 one of them is not (the reason is printed), 2 wrong arguments.`
}

// Run ends sessions.
func (v End) Run(ctx context.Context, c Caller) error {
	ways := 0
	for _, given := range []bool{len(v.Session) > 0, v.NotAdmitted, v.Generation != ""} {
		if given {
			ways++
		}
	}
	if ways != 1 {
		return exit.Usage(errors.New("name sessions, or give one of --not-admitted and --generation"))
	}
	switch {
	case v.NotAdmitted:
		return v.end(ctx, c, func(ctx context.Context, client *api.Client) (api.Ended, error) { return client.EndNotAdmitted(ctx) })
	case v.Generation != "":
		return v.end(ctx, c, func(ctx context.Context, client *api.Client) (api.Ended, error) {
			return client.EndGeneration(ctx, v.Generation)
		})
	}
	var failed []error
	for _, id := range v.Session {
		err := v.end(ctx, c, func(ctx context.Context, client *api.Client) (api.Ended, error) { return client.End(ctx, id) })
		if err != nil {
			failed = append(failed, fmt.Errorf("session %s: %w", id, err))
		}
	}
	return errors.Join(failed...)
}

// end sends one request.
func (v End) end(ctx context.Context, c Caller, do func(context.Context, *api.Client) (api.Ended, error)) error {
	return Again{}.ask(ctx, c, v.JSON, v.question(c, func(ctx context.Context, client *api.Client, _ screen.Screen) (view, error) {
		a, err := do(ctx, client)
		var failed *api.FailedError
		switch {
		case !errors.As(err, &failed):
		case failed.Code == http.StatusNotFound && v.Generation == "":
			failed.Answer.Remedy = "usher sessions lists those that run"
		case failed.Code == http.StatusUnauthorized && client.Token == "":
			err = errors.New("this needs the token of the admin listener; set USHER_ADMIN_TOKEN or USHER_ADMIN_TOKEN_FILE as on the replicas")
		}
		return view{show.Ended(a), a.Missing}, err
	}))
}
