package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"time"

	"usher/cmd/usher/internal/exit"
	"usher/cmd/usher/internal/explain"
	"usher/cmd/usher/internal/listen"
	"usher/cmd/usher/internal/policyfile"
	"usher/proxy/decide"
	"usher/proxy/printable"
	"usher/proxy/resolve"
	"usher/proxy/rules"
	"usher/proxy/selfaddr"
)

type explainCmd struct {
	Question []string      `arg:"" name:"FROM [USER] TO:PORT [COMMAND]" help:"The client, its user if it logs in, the target, and the command as in rules (default: connect)."`
	Local    string        `placeholder:"ADDRESS:PORT" help:"The address that the client connects to. Default: the first one of FROM's family that serve would listen on. Required if serve listens on every address (such as 0.0.0.0) and a rule or external.rotation depends on this address."`
	Socks    int           `enum:"4,5" default:"5" help:"The SOCKS version of the client: 4 or 5."`
	Timeout  time.Duration `default:"10s" help:"Time limit for resolving all names."`
	All      bool          `help:"Also show the earlier rules that do not match, and why. --json always shows them."`
	JSON     bool          `name:"json" help:"Print JSON."`
}

// errRefused is the exit code for a request that would be refused.
const errRefused = exit.CodeError(3)

// Help is shown under usher explain --help.
func (explainCmd) Help() string {
	return `Reads the rules as usher serve does (USHER_CONFIG, USHER_USERS_FILE, USHER_GROUPS_FILE). Opens no connection and counts nothing.

FROM is the client's address. Add a port if rules depend on it (default: ` + strconv.Itoa(explain.Ephemeral) + `). explain assumes that USER has logged in, and asks for no password. Without USER, the client does not log in.

The meaning of FROM and TO depends on the COMMAND:

bind: TO is the peer that the client announces, or 0.0.0.0:0 for any peer. explain also asks whether the announced peer may connect. Rules judge the address that Usher would bind. This address may depend on --local. Its port is ` + strconv.Itoa(explain.Ephemeral) + ` if the system would choose it.

udpassociate: rules judge the request, then a datagram from FROM to TO, and then the answer of TO.

bindreply, udpreply: FROM is the peer and TO the client.

explain also checks what serve checks besides the rules: TO must have a port and an address, must not be a listener of serve (SOCKS or admin), and must have an external: address of its family. Runtime state (full limits, UDP ports in use) is not considered.

Exit codes: 0 the request passes; 3 it is refused; 1 the question cannot be answered; 2 wrong arguments or a wrong variable.`
}

// Run answers what the server would decide, and why.
func (e explainCmd) Run(ctx context.Context, sys system) error {
	asked, err := explain.Parse(e.Question, rules.Version(e.Socks))
	if err != nil {
		return exit.Usage(err)
	}
	cfg, err := sys.config()
	if err != nil {
		return err
	}
	policy, _, err := policyfile.Load(cfg)
	if err != nil {
		return err
	}
	listeners, _, err := listen.Addresses(cfg, policy.Rules.Settings)
	if err != nil && e.Local == "" { // with it, serve's interfaces may be another machine's
		return err
	}
	if asked.Local, err = e.localAddress(listeners, asked.From.Addr()); err != nil {
		return err
	}
	own := selfaddr.OfAddresses(append(listeners, string(cfg.AdminListen), string(cfg.AgentListen)))
	ctx, cancel := context.WithTimeout(ctx, e.Timeout)
	defer cancel()
	answer, err := explain.Ask(ctx, asked, policy, decide.Machine{
		Own:    func(to netip.AddrPort) bool { return selfaddr.Reaches(own, to) },
		Toward: selfaddr.Toward,
	}, resolve.Default)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("some names did not resolve within %v; use a longer --timeout", e.Timeout)
	case err != nil:
		return err
	}
	answer.File = policyfile.Name(cfg.RuleFile)
	if e.JSON {
		err = printable.WriteJSON(sys.stdout, answer)
	} else {
		err = answer.Print(sys.stdout, e.All)
	}
	if err == nil && !answer.Pass {
		return errRefused
	}
	return err
}

// localAddress returns the address that the client connects to.
func (e explainCmd) localAddress(listeners []string, from netip.Addr) (netip.AddrPort, error) {
	where := e.Local
	if where == "" {
		where = explain.Local(listeners, from)
	}
	local, err := netip.ParseAddrPort(where)
	if err != nil {
		return local, exit.Usage(fmt.Errorf("%q is not an address and a port; write --local like 192.0.2.1:1080", where))
	}
	return local, nil
}
