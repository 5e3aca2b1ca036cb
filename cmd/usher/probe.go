package main

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"time"

	"usher/cmd/usher/internal/exit"
	"usher/cmd/usher/internal/probe"
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

// socksProbe has the flags of usher probe that go with --socks. They are the fields of
// probe.Question.
type socksProbe struct {
	Socks        string `help:"Prove that this SOCKS server forwards." placeholder:"HOST:PORT"`
	SocksVersion string `help:"SOCKS version: 4, 4a or 5." enum:"4,4a,5" default:"5"`
	Command      string `help:"SOCKS command to test: connect, or bind (a peer of the probe connects to the server)." enum:"connect,bind" default:"connect"`
	UDP          bool   `help:"Test a UDP association with a datagram in each direction." name:"udp"`
	User         string `help:"Log in as this user. SOCKS 4: the user id." placeholder:"NAME"`
	PasswordFile string `help:"File with the user's password." placeholder:"FILE"`
	Bind         string `help:"Address on which the probe listens, at a port that the system chooses. Default: the local address of the connection to the server." placeholder:"ADDR"`
	Target       string `help:"Connect to this instead of a listener of the probe. A connection is enough, unless --expect is given." placeholder:"HOST:PORT"`
	Expect       string `help:"Text that must be in the first 64 KiB that the target sends." placeholder:"TEXT"`
	Count        int    `help:"Number of sessions that are open at the same time." default:"1" placeholder:"N"`
}

// Help adds what the two probes are to usher probe --help.
func (probeCmd) Help() string {
	return "Without --socks it asks /readyz of the admin listener.\n\n" +
		"With --socks it proves that a SOCKS server forwards, Usher or another one: it opens sessions through that server to a listener of its own, sends random bytes each way and compares them.\n\n" +
		"Exit code 0: up, 1: down, 2: wrong arguments."
}

// Run probes once.
func (p probeCmd) Run(ctx context.Context, sys system) error {
	v, err := p.ask(ctx, sys)
	if err != nil {
		return err
	}
	if err := p.print(sys.stdout, v); err != nil {
		return err
	}
	switch {
	case v.Up && p.Relayd:
		return exit.CodeError(relaydUp)
	case v.Up || p.Relayd:
		return nil
	case p.Nagios:
		return exit.CodeError(2)
	}
	return exit.CodeError(1)
}

func (p probeCmd) ask(ctx context.Context, sys system) (v probe.Verdict, err error) {
	if err := p.check(); err != nil {
		return v, exit.Usage(err)
	}
	if p.Socks.Socks == "" {
		return p.askReady(ctx, sys), nil
	}
	options, err := probe.Question(p.Socks).Options()
	if err != nil {
		return v, exit.Usage(err)
	}
	options.Timeout = p.Timeout
	result, err := probe.Run(ctx, options)
	if err != nil {
		return v, exit.Usage(err)
	}
	return probe.Judge(result), nil
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
	return probe.Question(p.Socks).Check()
}

func (p probeCmd) print(w io.Writer, v probe.Verdict) error {
	switch {
	case p.Quiet:
	case p.JSON:
		return v.PrintJSON(w)
	case p.Nagios:
		v.PrintNagios(w)
	default:
		v.Print(w)
	}
	return nil
}

// askReady requests /readyz.
func (p probeCmd) askReady(ctx context.Context, sys system) probe.Verdict {
	path := "/readyz"
	if p.Strict {
		path += "?strict=1"
	}
	began := time.Now()
	code, body, err := sys.target(p.Admin, 0, p.Timeout).Get(ctx, path)
	return probe.JudgeReady(code, body, err, time.Since(began))
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
func forNagios(stdout io.Writer, verb func() error) int {
	err := verb()
	var quiet exit.CodeError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &quiet):
		return int(quiet)
	}
	probe.PrintUnknown(stdout, err)
	return 3
}
