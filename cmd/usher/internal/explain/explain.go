package explain

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"usher/proxy"
	"usher/proxy/decide"
	"usher/proxy/resolve"
	"usher/proxy/rules"
)

// Ask answers a question about a server with a policy on this machine. Names
// are looked up until ctx ends.
//
// It is an error if ctx ends (with its cause), or if the answer depends on the
// address that the client connects to and q.Local is unspecified.
func Ask(ctx context.Context, q Question, policy *proxy.Policy, machine decide.Machine, resolver resolve.Resolver) (*Answer, error) {
	q.From, q.Local = plain(q.From), plain(q.Local)
	w := &walk{ctx: ctx, question: q, cache: resolve.NewCache(resolver, 0, nil), known: map[string]lookup{}}
	w.cache.Reset(policy.Rules.HostNames())
	defer w.cache.Wait()
	w.Init(w)
	w.session = decide.Session{
		Policy: policy.Decide(), Machine: machine,
		From: q.From, To: q.Local, Local: q.Local.Addr(),
		Version: q.Version, Method: q.method(), User: q.User,
		InGroup: func(group string) bool { return policy.Groups.In(group, q.User) },
	}
	w.answer = Answer{Digest: policy.Rules.Digest(), From: q.From.String(), User: q.User,
		Target: targetText(q.To), Command: q.Command.String(), Names: []Name{}}
	if !q.isReply() {
		w.answer.Local = q.Local.String()
	}
	w.run()
	switch {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case w.uncertain != "":
		return nil, fmt.Errorf("%s depends on the address that the client connects to, and serve listens on every address (%v): name one with --local ADDRESS:PORT",
			w.uncertain, q.Local)
	}
	return &w.answer, nil
}

// plain returns an address in the form that serve uses: IPv4 not as IPv6, and without a
// zone.
func plain(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())
}

// walk takes one question through the decisions about a session. It looks names up
// for them.
type walk struct {
	decide.Names
	ctx       context.Context // in a field, because it lives as long as Ask
	question  Question
	session   decide.Session
	cache     *resolve.Cache
	known     map[string]lookup
	answer    Answer
	uncertain string // what depends on an address that the question does not name; "": nothing
}

type lookup struct {
	addrs []netip.Addr
	err   error
}

// Addrs implements decide.Lookup. It asks for each name once.
func (w *walk) Addrs(name string) ([]netip.Addr, error) {
	found, known := w.known[name]
	if !known {
		found.addrs, found.err = w.cache.Lookup(w.ctx, netip.Addr{}, name)
		if !errors.Is(found.err, resolve.ErrName) {
			found.err = nil // that of a resolver differs from machine to machine
		}
		w.known[name] = found
		w.answer.Names = append(w.answer.Names, Name{name, texts(found.addrs)})
	}
	return found.addrs, found.err
}

// Missing implements decide.Lookup.
func (w *walk) Missing() error { return context.Cause(w.ctx) }

// run asks for one decision after the other, as a session does, up to one that
// refuses.
func (w *walk) run() {
	switch w.question.Command {
	case rules.BindReply:
		w.bindReply()
		return
	case rules.UDPReply:
		w.udpReply()
		return
	}
	client := w.client()
	if client == nil || !w.negotiate(client) {
		return
	}
	switch w.question.Command {
	case rules.Bind:
		w.bind(client)
	case rules.UDPAssociate:
		w.associate(client)
	default:
		w.connect(client)
	}
}

// client returns the client-rule that lets the client in, nil if none does.
func (w *walk) client() *rules.Rule {
	w.trace(&w.answer.ClientRules, w.question.Local.Addr())
	v, err := w.session.Client(&w.Names)
	if err != nil {
		w.refuse(err, v.Rule, "client-rule", "the connection is closed without a byte")
		return nil
	}
	w.limit(v.Rule, "during negotiation")
	return v.Rule
}

// negotiate reports whether the client can use a method that it offers.
func (w *walk) negotiate(client *rules.Rule) bool {
	methods := w.session.Policy.Methods(client)
	for _, m := range methods {
		w.answer.Methods = append(w.answer.Methods, m.String())
	}
	offered := w.question.method()
	if _, err := decide.Choose(methods, func(m rules.Method) bool { return m == offered }); err != nil {
		w.answer.Reason = fmt.Sprintf("no common method: the client may use %s, and offers %s",
			cmp.Or(strings.Join(w.answer.Methods, " "), "nothing"), offered)
		return false
	}
	if methods[0] == rules.None && offered == rules.Username {
		w.answer.Note = "none comes before username, so a client that offers both is not asked for its name"
	}
	return true
}

func (w *walk) connect(client *rules.Rule) {
	w.trace(&w.answer.SocksRules, netip.Addr{})
	v, err := w.session.Connect(w.question.To, &w.Names)
	if err == nil {
		err = w.reach(v.Addrs)
	}
	if err != nil {
		w.refuse(err, v.Rule, "socks-rule", replyFor(err))
		return
	}
	w.pass(client, v.Rule, "")
}

func (w *walk) bind(client *rules.Rule) {
	local := w.question.Local.Addr() // the address of a port that the client asks for
	if len(w.session.Policy.External) > 0 {
		local = netip.Addr{}
	}
	w.trace(&w.answer.SocksRules, local)
	expected, r, err := w.session.Bind(w.question.To, &w.Names, func(at netip.AddrPort) (netip.AddrPort, error) {
		at = netip.AddrPortFrom(at.Addr(), cmp.Or(at.Port(), Ephemeral))
		w.answer.Bound = at.String()
		w.trace(&w.answer.SocksRules, at.Addr())
		return at, nil
	})
	if err != nil {
		if len(expected) > 0 {
			w.doubtSource(err, expected[0])
		}
		w.refuse(err, r, "socks-rule", replyFor(err))
		return
	}
	w.pass(client, r, "; until the peer connects if its bindreply rule has another limit")
	w.peerReply(expected)
}

// associate asks about the request for an association, then about a datagram from
// the same address and port, and then about the answer.
func (w *walk) associate(client *rules.Rule) {
	w.trace(&w.answer.RequestRules, netip.Addr{})
	r, err := w.session.Associate(netip.AddrPort{}, false, &w.Names)
	if err != nil {
		w.refuse(err, r, "socks-rule", "reply 2 to the request for the association")
		return
	}
	w.trace(&w.answer.SocksRules, netip.Addr{})
	v, err := w.session.Datagram(w.question.From, w.question.To, &w.Names)
	if err == nil {
		err = w.reach(v.Addrs)
	}
	if err != nil {
		w.refuse(err, v.Rule, "socks-rule", "it is dropped")
		return
	}
	w.pass(client, r, "")
	w.datagramReply()
}

func (w *walk) bindReply() {
	w.trace(&w.answer.SocksRules, netip.Addr{})
	peer := w.question.From
	w.session.From = netip.AddrPortFrom(w.question.To.Addr, w.question.To.Port)
	r, err := w.session.BindReply(peer, nil, &w.Names)
	if err != nil {
		w.refuse(err, r, "socks-rule", "the second reply is 2")
		return
	}
	w.limit(r, "until the session ends; the slot of the rule that passed the request is released if that is another rule")
	w.passed(r)
}

func (w *walk) udpReply() {
	w.trace(&w.answer.SocksRules, netip.Addr{})
	client := netip.AddrPortFrom(w.question.To.Addr, w.question.To.Port)
	r, err := w.session.UDPReply(w.question.From, client, &w.Names)
	if err != nil {
		w.refuse(err, r, "socks-rule", "it is dropped")
		return
	}
	w.passed(r) // datagrams do not count
}

// reach records the addresses that serve would connect or send to, in their order.
// If there is none, the error says why.
func (w *walk) reach(addrs []netip.Addr) (err error) {
	w.answer.Addresses = []string{}
	for _, a := range addrs {
		_, failed := w.session.Reach(w.question.Command, netip.AddrPortFrom(a, w.question.To.Port))
		if failed != nil {
			w.doubtSource(failed, a)
			err = failed
			continue
		}
		w.answer.Addresses = append(w.answer.Addresses, a.String())
	}
	if len(w.answer.Addresses) > 0 {
		return nil
	}
	return err
}

// trace records in steps the next rules that are asked. If every is unspecified, it
// stands for any address of its family. If a rule then matches some of these
// addresses and not others, the answer is uncertain.
func (w *walk) trace(steps *[]Step, every netip.Addr) {
	w.session.Trace = func(asked []rules.Step) {
		*steps = stepsOf(asked)
		if !every.IsUnspecified() {
			return
		}
		if i := slices.IndexFunc(asked, func(s rules.Step) bool { return s.Splits(every) }); i >= 0 {
			w.uncertain = cmp.Or(w.uncertain, fmt.Sprintf("%v at %v", asked[i].Rule, asked[i].Rule.Pos))
		}
	}
}

// doubtSource records that err depends on the address that the client connects to: with
// external.rotation: same-same, serve connects from that address if it has the family
// of to.
func (w *walk) doubtSource(err error, to netip.Addr) {
	local := w.session.Local
	if errors.Is(err, decide.ErrNoRoute) && w.session.Policy.Rules.Settings.Rotation == rules.RotationSameSame &&
		local.IsUnspecified() && local.Is4() == to.Is4() {
		w.uncertain = cmp.Or(w.uncertain, "external.rotation: same-same")
	}
}

// refuse records why the request is refused: r blocks it, or no rule of this kind
// matches, each with this outcome, or the reason is not a rule.
func (w *walk) refuse(err error, r *rules.Rule, kind, outcome string) {
	switch {
	case !errors.Is(err, decide.ErrBlocked):
		_, reason := proxy.Refusal(err)
		outcome := replyFor(err)
		if w.answer.RequestRules != nil { // the association was granted, this is its datagram
			outcome = "it is dropped"
		}
		w.answer.Reason = fmt.Sprintf("%v: %s, reason %s", err, outcome, reason)
	case r != nil:
		w.answer.Reason = r.String() + " blocks it: " + outcome
	default:
		w.answer.Reason = "no " + kind + " matches: " + outcome
	}
}

// replyFor describes the reply that the client gets for err.
func replyFor(err error) string {
	reply, _ := proxy.Refusal(err)
	words := fmt.Sprintf("reply %d", reply)
	if errors.Is(err, decide.ErrBlockedName) {
		words += ", as for a name that does not resolve"
	}
	return words
}

// pass notes that a socks-rule passes a request, and how long the slots are
// held. end is what may end that earlier.
func (w *walk) pass(client, request *rules.Rule, end string) {
	if len(w.answer.Limits) > 0 {
		held := &w.answer.Limits[0].Held
		switch {
		case decide.Inherits(client, request):
			*held = "until the session ends, because " + request.String() + " has no limit of its own" + end
		case decide.SharesPool(client, request):
			*held = "until the session ends, because " + request.String() + " is in the same pool" + end
			w.passed(request)
			return
		case client.Session.Inheritable:
			*held += "; released then, because " + request.String() + " has a limit of its own"
		default:
			*held += "; released then, because it is not inheritable"
		}
	}
	w.limit(request, "until the session ends"+end)
	w.passed(request)
}

func (w *walk) passed(r *rules.Rule) {
	w.answer.Pass, w.answer.Reason = true, r.String()+" passes it"
}

func (w *walk) limit(r *rules.Rule, held string) {
	if words := r.LimitWords(); len(words) > 0 {
		key := w.session.Policy.Rules.Key(r, w.session.From.Addr(), w.session.User)
		w.answer.Limits = append(w.answer.Limits, Limit{r.ID(), r.Name, words, key, held})
	}
}
