package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"usher/cmd/usher/internal/exit"
	"usher/cmd/usher/internal/probe"
	"usher/proxy/admin"
	"usher/proxy/printable"
)

type probeCmd struct {
	Admin   string        `help:"Address of the admin listener. Default: USHER_ADMIN_LISTEN." placeholder:"HOST:PORT"`
	Strict  bool          `help:"Also require a store that lets limited rules admit sessions."`
	Timeout time.Duration `help:"How long the whole probe may take." default:"2s"`

	Socks socksProbe `embed:""`

	Quiet  bool `help:"Print nothing."`
	JSON   bool `help:"Print the result for programs; with --socks each step with its time." name:"json"`
	Nagios bool `help:"Print one line with performance data, for Nagios. Exit code 0: up, 2: down, 3: wrong arguments."`
	Relayd bool `help:"Exit codes for relayd check scripts. 1: up, 0: down, wrong arguments or any other failure."`
}

// Help adds what the two probes are to usher probe --help.
func (probeCmd) Help() string {
	return "Without --socks it asks /readyz of the admin listener.\n\n" +
		"With --socks it proves that a SOCKS server forwards, Usher or another one: it opens sessions through that server to a listener of its own, sends random bytes each way and compares them.\n\n" +
		"Exit code 0: up, 1: down, 2: wrong arguments."
}

// verdict is what a probe found.
type verdict struct {
	up     bool
	text   string // one line for people
	what   string // the same without the verdict
	figure string // performance data for Nagios
	data   any    // for --json
}

// Run probes once.
func (p probeCmd) Run(ctx context.Context, sys system) error {
	v, err := p.ask(ctx, sys)
	if err != nil {
		return err
	}
	if err := p.print(sys, v); err != nil {
		return err
	}
	switch {
	case v.up && p.Relayd:
		return exit.CodeError(relaydUp)
	case v.up || p.Relayd:
		return nil
	case p.Nagios:
		return exit.CodeError(2)
	}
	return exit.CodeError(1)
}

func (p probeCmd) ask(ctx context.Context, sys system) (verdict, error) {
	if err := p.check(); err != nil {
		return verdict{}, exit.Usage(err)
	}
	if p.Socks.Socks != "" {
		return p.Socks.ask(ctx, p.Timeout)
	}
	return p.askReady(ctx, sys), nil
}

// check refuses flags that contradict each other.
func (p probeCmd) check() error {
	switch {
	case p.Timeout <= 0:
		return errors.New("--timeout must be longer than 0s")
	case p.JSON && p.Nagios:
		return errors.New("--json and --nagios are two forms of the output; choose one")
	case p.Socks.Socks != "" && (p.Admin != "" || p.Strict):
		return errors.New("--admin and --strict ask the admin listener; they do not go with --socks")
	}
	return p.Socks.check()
}

func (p probeCmd) print(sys system, v verdict) error {
	switch {
	case p.Quiet:
	case p.JSON:
		return printJSON(sys.stdout, v.data)
	case p.Nagios:
		state := "CRITICAL"
		if v.up {
			state = "OK"
		}
		fmt.Fprintf(sys.stdout, "USHER %s - %s | %s\n", state, nagiosText(v.what), v.figure)
	default:
		fmt.Fprintln(sys.stdout, printable.Text(v.text))
	}
	return nil
}

// nagiosText returns text for a line of a Nagios plugin, where a bar begins the
// performance data.
func nagiosText(text string) string {
	return strings.ReplaceAll(printable.Text(text), "|", "/")
}

// askReady requests /readyz. A process that does not answer is not ready.
func (p probeCmd) askReady(ctx context.Context, sys system) verdict {
	path := "/readyz"
	if p.Strict {
		path += "?strict=1"
	}
	began := time.Now()
	code, body, err := adminGet(ctx, sys, p.Admin, path, p.Timeout)
	took := time.Since(began).Seconds()
	v := verdict{up: err == nil && code == http.StatusOK, text: "ready", what: "ready", figure: fmt.Sprintf("total=%.3fs", took)}
	reason := ""
	if !v.up {
		if reason = reasonIn(code, body); err != nil {
			reason = err.Error()
		}
		v.what, v.text = reason, "not ready: "+reason
	}
	v.data = probe.Result{Up: v.up, Reason: reason, Seconds: took}
	return v
}

// reasonIn returns the reason in the body of /readyz, else the HTTP status.
func reasonIn(code int, body []byte) string {
	var r admin.Ready
	if err := json.Unmarshal(body, &r); err != nil || r.Reason == "" {
		return fmt.Sprintf("HTTP status %d", code)
	}
	return r.Reason
}

// asksFor reports whether the arguments contain a flag without a value. They may be
// wrong, so that there is nothing better to ask which exit codes the caller expects.
func asksFor(flag string, args []string) bool {
	return slices.ContainsFunc(args, func(arg string) bool {
		name, value, _ := strings.Cut(arg, "=")
		return name == flag && value != "false"
	})
}

// forNagios runs a probe for Nagios. It reports as unknown what is neither up nor
// down, such as wrong arguments.
func forNagios(stdout io.Writer, probe func() error) int {
	err := probe()
	var exit exit.CodeError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return int(exit)
	}
	fmt.Fprintf(stdout, "USHER UNKNOWN - %s\n", nagiosText(err.Error()))
	return 3
}
