package proxy

import (
	"strings"
	"time"

	"usher/limiter"
	"usher/proxy/decide"
	"usher/proxy/record"
	"usher/proxy/rules"
	"usher/proxy/socks"
)

// seen is a session and its stage at one moment. What its methods read does not change
// any more, see stage.
type seen struct {
	session *session
	gen     *generation
	stage   stage
}

// seen returns the sessions that a client-rule has passed and that have its slot, if it
// has a limit.
func (t *table) seen() []seen {
	t.mu.Lock()
	defer t.mu.Unlock()
	list := make([]seen, 0, len(t.live))
	for s := range t.live {
		if s.stage.rule != nil && !s.stage.waits {
			list = append(list, seen{s, s.gen, s.stage})
		}
	}
	return list
}

// running returns the record of a session that has not ended.
func (v seen) running(now time.Time) record.Running {
	s, state := v.session, record.Negotiating
	r := v.identity()
	if v.stage.command == 0 {
		addClientRule(&r, v.stage.rule)
	} else {
		state = record.Opening
		addClientRule(&r, s.clientRule)
		addRule(&r, v.stage.rule)
		v.addRequest(&r)
		if v.stage.unconfirmed {
			r.Confirmed = new(bool)
		}
	}
	r.Pool, r.LimitKey = v.counted().Session.Pool, v.limit().Key
	r.WouldRefuse = v.wouldRefuse()
	age := now.Sub(s.began)
	r.Seconds = age.Seconds()
	silent := age
	if v.stage.connected {
		state = record.Relaying
		if v.stage.command == socks.UDPAssociate {
			state = record.Associated
		}
		v.addFarEnd(&r)
		silent = min(age, s.moved.Idle())
	}
	return record.Running{Session: r, State: state, IdleSeconds: silent.Seconds()}
}

// counted returns the rule whose limit counts the session, if that has one.
func (v seen) counted() *rules.Rule {
	if v.stage.command != 0 && decide.Inherits(v.session.clientRule, v.stage.rule) {
		return v.session.clientRule
	}
	return v.stage.rule
}

// limit returns the limit by which the session is counted.
func (v seen) limit() limiter.Limit {
	r, user := v.counted(), ""
	if !r.Client {
		user = v.session.user
	}
	return v.gen.limit(r, v.session.from.Addr(), user)
}

// wouldRefuse names the limits that would have refused a session, each after its rule.
// "": none.
func (v seen) wouldRefuse() string {
	var texts []string
	add := func(by verdict, r *rules.Rule, user string) {
		if by != 0 {
			key := v.gen.limit(r, v.session.from.Addr(), user).Key
			texts = append(texts, r.ID()+" "+limitText(r, by&byRate != 0, by&byKey != 0, by&byKeys != 0, key))
		}
	}
	if v.stage.command == 0 {
		add(v.stage.client, v.stage.rule, "")
	} else {
		add(v.stage.client, v.session.clientRule, "")
		add(v.stage.request, v.stage.rule, v.session.user)
	}
	return strings.Join(texts, "; ")
}

// identity returns the record of a session with what is known of each, and with the
// bytes so far.
func (v seen) identity() record.Session {
	s := v.session
	return record.Session{
		ID: s.server.sessionID(s.id), Replica: s.server.opts.Replica, Generation: s.server.table.label(v.gen),
		Client: s.from, Began: s.began, BytesUp: s.up.Load(), BytesDown: s.down.Load(),
	}
}

// addClientRule adds a client-rule, nil if none has matched.
func addClientRule(r *record.Session, rule *rules.Rule) {
	r.ClientRule, r.ClientRuleName, r.ClientRuleAt = id(rule), name(rule), at(rule)
}

// addRule adds a socks-rule, nil if none has matched.
func addRule(r *record.Session, rule *rules.Rule) {
	r.Rule, r.RuleName, r.RuleAt = id(rule), name(rule), at(rule)
}

// addRequest adds what the client has asked for, as far as it was read. Strings that
// the client chose are bounded by the protocol, to 255 bytes.
func (v seen) addRequest(r *record.Session) {
	s := v.session
	r.User = s.user
	if s.awaited != nil {
		r.Bound = s.awaited.at
	}
	if s.request.Version == 0 {
		return
	}
	r.SOCKS = int(s.request.Version)
	if s.request.Command != 0 {
		r.Command = commandName(s.request.Command)
	}
	if a := s.request.Addr; a.Name != "" || a.IP.IsValid() {
		r.Target = a.String()
	}
}

// addFarEnd adds to what the session is connected.
func (v seen) addFarEnd(r *record.Session) {
	r.Dialled = v.session.dialled.at
	if a := v.session.awaited; a != nil {
		r.Peer = a.peer
	}
}

// name returns rule.name of a rule, "" if it has none.
func name(r *rules.Rule) string {
	if r == nil {
		return ""
	}
	return r.Name
}

// poolOf returns the pool of the limit that a session asked last, "" if there is none.
// Each rule is nil if none matched yet.
func poolOf(client, request *rules.Rule) string {
	switch {
	case request != nil && (client == nil || !decide.Inherits(client, request)):
		return request.Session.Pool
	case client != nil:
		return client.Session.Pool
	}
	return ""
}
