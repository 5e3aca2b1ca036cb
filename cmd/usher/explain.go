package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"usher/cmd/usher/internal/listen"
	"usher/cmd/usher/internal/policyfile"
	"usher/proxy"
	"usher/proxy/resolve"
	"usher/proxy/rules"
)

type explainCmd struct {
	Question []string      `arg:"" name:"FROM [USER] TO:PORT [COMMAND]" help:"The client, the user if it logs in, the target, and the command as in rules (connect if there is none)."`
	Local    string        `placeholder:"ADDRESS:PORT" help:"The address that the client connects to. Default: the first one of FROM's family that serve would listen at. Needed if that is every address, and a rule or external.rotation asks which."`
	Socks    int           `enum:"4,5" default:"5" help:"The SOCKS version that the client speaks: 4 or 5."`
	Timeout  time.Duration `default:"10s" help:"How long names may take to resolve, all together."`
	JSON     bool          `name:"json" help:"Print JSON."`
}

// errRefused is the exit code for a request that would be refused.
const errRefused = exitError(3)

// Help is shown under usher explain --help.
func (explainCmd) Help() string {
	return `Reads the rules as usher serve does (USHER_CONFIG, USHER_USERS_FILE, USHER_GROUPS_FILE), opens no connection and counts nothing.

FROM is an address, with a port if rules ask for one (else 49152). A USER is taken to have logged in; without one the client does not.

What FROM and TO are depends on the COMMAND. Of bind, TO is the peer that the client announces, 0.0.0.0:0 for any; rules are asked about the address that would be bound, as after --local, and about a port of the system's choice, ` + strconv.Itoa(ephemeral) + `. Of bindreply and udpreply, FROM is the peer and TO the client. udpassociate is judged twice, as the request and as a datagram to TO.

Besides the rules it asks what serve asks: whether TO has a port and an address, would reach a listener of serve (SOCKS or admin), and has the family of an external: address. It does not know what is so of the moment: limits that are full, sockets of UDP associations.

Exit codes: 0 it passes, 3 it is refused, 1 the question cannot be answered, 2 wrong arguments or a wrong variable.`
}

// Run answers what the server would decide, and why.
func (e explainCmd) Run(ctx context.Context, sys system) error {
	asked, err := e.parse()
	if err != nil {
		return usageError{err}
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
	if asked.local, err = e.localAddress(listeners, asked.from.Addr()); err != nil {
		return err
	}
	asked.own = listen.BoundTo(append(listeners, string(cfg.AdminListen)))
	ctx, cancel := context.WithTimeout(ctx, e.Timeout)
	defer cancel()
	answer := asked.judge(ctx, policy)
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("not all names that rules ask for resolved within %v: give a longer --timeout", e.Timeout)
	case answer.unsure != "":
		return fmt.Errorf("what %s decides depends on the address that the client connects to, and serve listens at all of them (%v): name it with --local ADDRESS:PORT",
			answer.unsure, asked.local)
	}
	answer.File, answer.Digest = policyfile.Name(cfg.RuleFile), policy.Rules.Digest()
	if e.JSON {
		err = printJSON(sys.stdout, answer)
	} else {
		err = answer.print(sys.stdout)
	}
	if err == nil && !answer.Pass {
		return errRefused
	}
	return err
}

// ephemeral is the client's port where the question names none: the first of
// those that systems choose from.
const ephemeral = 49152

// question is a request to be judged.
type question struct {
	from, local netip.AddrPort
	own         []netip.AddrPort // where serve would listen
	user        string           // "": the client does not log in
	to          rules.Target
	command     rules.Command
	version     rules.Version
}

// parse tells the arguments apart: a target has a colon, which no user has.
func (e explainCmd) parse() (q question, err error) {
	args := e.Question
	if len(args) > 2 {
		if c, known := rules.CommandNamed(args[len(args)-1]); known {
			q.command, args = c, args[:len(args)-1]
		}
	}
	if len(args) == 3 {
		q.user, args = args[1], slices.Delete(slices.Clone(args), 1, 2)
	}
	if len(args) != 2 {
		return q, errors.New("write FROM [USER] TO:PORT [COMMAND], as in: usher explain 192.0.2.7 monica example.com:443 connect")
	}
	q.version = rules.Version(e.Socks)
	switch {
	case q.version != rules.SOCKS4:
	case q.user != "":
		return q, errors.New("SOCKS 4 proves no names; leave USER or --socks out")
	case q.command == rules.UDPAssociate || q.command == rules.UDPReply:
		return q, errors.New("UDP is in SOCKS 5 only; leave --socks out")
	}
	if q.from, err = netip.ParseAddrPort(args[0]); err != nil {
		addr, err := netip.ParseAddr(strings.Trim(args[0], "[]"))
		if err != nil {
			return q, fmt.Errorf("FROM %q is not an address; write it like 192.0.2.7 or 192.0.2.7:50000", args[0])
		}
		q.from = netip.AddrPortFrom(addr, ephemeral)
	}
	host, port, err := net.SplitHostPort(args[1])
	n, perr := strconv.ParseUint(port, 10, 16)
	if err != nil || perr != nil || host == "" {
		return q, fmt.Errorf("%q is not a target; write a name or an address and a port, like example.com:443 or [2001:db8::1]:443", args[1])
	}
	q.to.Port = uint16(n)
	if addr, err := netip.ParseAddr(host); err == nil {
		q.to.Addr = addr.Unmap().WithZone("")
	} else {
		q.to.Name = host
	}
	return q, nil
}

// localAddress returns what the client connected to. An address that is every
// address of the client's family stays what it is, as nothing says more.
func (e explainCmd) localAddress(listeners []string, from netip.Addr) (netip.AddrPort, error) {
	where := e.Local
	if where == "" {
		where = listenerOf(from, listeners)
		if port, found := strings.CutPrefix(where, ":"); found {
			where = net.JoinHostPort(unspecified(from).String(), port)
		}
	}
	local, err := netip.ParseAddrPort(where)
	if err != nil {
		return local, usageError{fmt.Errorf("%q is not an address and a port; write --local like 192.0.2.1:1080", where)}
	}
	return local, nil
}

// listenerOf returns the first listener that a client may come in at: one of its
// family, or one that is not of one alone (:1080, a name). Without any it is the
// first, as a balancer may tell of a client of the other family.
func listenerOf(client netip.Addr, listeners []string) string {
	i := slices.IndexFunc(listeners, func(where string) bool {
		at, err := netip.ParseAddrPort(where)
		return err != nil || at.Addr().Unmap().Is4() == client.Unmap().Is4()
	})
	return listeners[max(i, 0)]
}

// unspecified returns what stands for every address of the family of a.
func unspecified(a netip.Addr) netip.Addr {
	if a.Unmap().Is4() {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

// names resolves names as serve does, each once, and remembers what it was asked.
type names struct {
	ctx   context.Context
	cache *resolve.Cache
	known map[string][]netip.Addr
	order []string
}

func (n *names) lookup(name string) []netip.Addr {
	if addrs, known := n.known[name]; known {
		return addrs
	}
	addrs, err := n.cache.Lookup(n.ctx, name)
	if err != nil {
		addrs = nil // a name that does not resolve has no address, for rules too
	}
	n.known[name] = addrs
	n.order = append(n.order, name)
	return addrs
}

// judge goes the way of a session: client-rule, method, name, socks-rule, and
// what is asked besides the rules.
func (q question) judge(ctx context.Context, policy *proxy.Policy) *explanation {
	dns := &names{ctx: ctx, cache: resolve.NewCache(resolve.Default, nil), known: map[string][]netip.Addr{}}
	dns.cache.Reset(policy.Rules.HostNames())
	out := &explanation{From: q.from.String(), User: q.user,
		Target: target(q.to), Command: q.command.String(), Names: []resolved{}}
	if !q.isReply() {
		out.Local = q.local.String()
	}
	q.decide(policy, dns, out)
	for _, name := range dns.order {
		out.Names = append(out.Names, resolved{name, texts(dns.known[name])})
	}
	return out
}

// decide fills in everything up to what refuses, or all.
func (q question) decide(policy *proxy.Policy, dns *names, out *explanation) {
	ask := rules.Query{From: q.from, To: rules.Target{Addr: q.local.Addr(), Port: q.local.Port()}, Lookup: dns.lookup,
		Version: q.version, Command: q.command, User: q.user,
		InGroup: func(group string) bool { return policy.Groups.In(group, q.user) }}
	var client *rules.Rule
	if !q.isReply() { // replies were not accepted
		v, steps := policy.Rules.ExplainClient(ask)
		out.ClientRules = stepsOf(steps)
		if q.local.Addr().IsUnspecified() {
			out.doubt(steps, q.local.Addr())
		}
		if !v.Pass() {
			out.refuse(v.Rule, "client-rule", "the connection is closed without a byte")
			return
		}
		client = v.Rule
		out.limit(client, "while the client negotiates")
		if ask.Method = q.method(); !q.negotiate(policy.Methods(client), out) {
			return
		}
	}
	charged := q.judgeRequest(policy, ask, dns, out)
	if charged == nil {
		return
	}
	switch q.command {
	case rules.UDPReply: // datagrams count nowhere
	case rules.BindReply:
		out.limit(charged, "to the end of the session, which gives back the slot of the rule that let it begin, if that is another")
	default:
		out.inherit(client, charged, q.command == rules.Bind)
	}
	out.Pass, out.Reason = true, charged.ID()+" passes it"
}

// isReply reports whether FROM is a peer of a client, and TO the client.
func (q question) isReply() bool { return q.command == rules.BindReply || q.command == rules.UDPReply }

// method is what the client is taken to negotiate.
func (q question) method() rules.Method {
	if q.user != "" {
		return rules.Username
	}
	return rules.None
}

// negotiate says by what method the client goes on, if it can.
func (q question) negotiate(methods []rules.Method, out *explanation) bool {
	for _, m := range methods {
		out.Methods = append(out.Methods, m.String())
	}
	if !slices.Contains(methods, q.method()) {
		out.Reason = fmt.Sprintf("no common method: the client may negotiate %s, and this one offers %s",
			orNothing(out.Methods), q.method())
		return false
	}
	if methods[0] == rules.None && q.user != "" {
		out.Note = "none comes before username, so a client that offers both is not asked for its name"
	}
	return true
}

// judgeRequest judges what the client asks for, an association first as the
// request for it and then as its datagram. It returns the rule that is charged,
// nil if it is refused.
func (q question) judgeRequest(policy *proxy.Policy, ask rules.Query, dns *names, out *explanation) *rules.Rule {
	var request rules.Verdict
	if q.command == rules.UDPAssociate {
		asking := ask
		asking.To = rules.Target{}
		var steps []rules.Step
		request, steps = policy.Rules.ExplainSocks(asking)
		if out.RequestRules = stepsOf(steps); !request.Pass() {
			out.refuse(request.Rule, "socks-rule", "reply 2 to the request for the association")
			return nil
		}
	}
	var err error
	if ask.To, ask.Addrs, err = q.resolve(policy, dns, out); err != nil {
		out.refuseFor(err)
		return nil
	}
	v, steps := policy.Rules.ExplainSocks(ask)
	if q.command == rules.Bind && ask.To.Addr.IsUnspecified() { // where the client connects to, which is not known
		out.doubt(steps, ask.To.Addr)
	}
	if out.SocksRules = stepsOf(steps); !v.Pass() {
		out.refuse(v.Rule, "socks-rule", q.blocked())
		return nil
	}
	reached, err := q.reach(policy, v.Addrs, out)
	if err != nil {
		out.refuseFor(err)
		return nil
	}
	out.Addresses = texts(reached)
	return cmp.Or(request.Rule, v.Rule)
}

// blocked is what becomes of what a socks-rule blocks.
func (q question) blocked() string {
	switch q.command {
	case rules.Connect, rules.Bind:
		return "reply 2"
	case rules.BindReply:
		return "the second reply is 2"
	}
	return "it is dropped"
}

// resolve returns the target as the rules are asked about it, and its
// addresses: of BIND, the place at which its peer would be awaited.
func (q question) resolve(policy *proxy.Policy, dns *names, out *explanation) (to rules.Target, addrs []netip.Addr, err error) {
	if q.sends() {
		if err := proxy.CheckTarget(q.to); err != nil {
			return to, nil, err
		}
	}
	if addrs = []netip.Addr{q.to.Addr}; q.to.Name != "" {
		addrs = dns.lookup(q.to.Name)
		if err := proxy.CheckResolved(addrs); err != nil {
			return to, nil, err
		}
	}
	if q.command != rules.Bind {
		return q.to, addrs, nil
	}
	q.doubtSource(policy, addrs[0], out)
	place, err := policy.BindPlace(addrs[0], q.to.Port, q.local.Addr())
	if err != nil {
		return to, nil, err
	}
	to = rules.Target{Addr: place.Addr(), Port: cmp.Or(place.Port(), ephemeral)}
	out.Bound = target(to)
	return to, nil, nil
}

// doubtSource notes if the address that serve would use towards to, and whether
// it has one, depends on the one that the client connects to, and that is not
// known. In another family than to's it never does.
func (q question) doubtSource(policy *proxy.Policy, to netip.Addr, out *explanation) {
	local := q.local.Addr()
	ours := func(a netip.Addr) bool { return a.Unmap().Is4() == to.Is4() }
	if policy.Rules.Settings.Rotation == rules.RotationSameSame && local.IsUnspecified() && local.Is4() == to.Is4() &&
		slices.ContainsFunc(policy.External, ours) {
		out.unsure = cmp.Or(out.unsure, "external.rotation: same-same")
	}
}

// reach returns those of the addresses that rules let pass that serve would
// send to, in their order; and why, if there is none.
func (q question) reach(policy *proxy.Policy, addrs []netip.Addr, out *explanation) (reached []netip.Addr, err error) {
	if !q.sends() {
		return nil, nil
	}
	for _, a := range addrs {
		if why := q.checkAddress(policy, a, out); why != nil {
			err = why
			continue
		}
		reached = append(reached, a)
	}
	if len(reached) > 0 {
		err = nil
	}
	return reached, err
}

func (q question) checkAddress(policy *proxy.Policy, a netip.Addr, out *explanation) error {
	if q.command == rules.UDPAssociate {
		if err := proxy.CheckDatagram(a); err != nil {
			return err
		}
	}
	if err := proxy.CheckOwn(netip.AddrPortFrom(a, q.to.Port), q.own); err != nil {
		return err
	}
	q.doubtSource(policy, a, out)
	_, err := policy.Source(a, q.local.Addr())
	return err
}

// sends reports whether serve would send something to the target.
func (q question) sends() bool { return q.command == rules.Connect || q.command == rules.UDPAssociate }
