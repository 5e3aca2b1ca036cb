package accounting

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"strconv"
	"time"

	"usher/proxy/printable"
	"usher/proxy/record"
)

// What a line is about.
const (
	eventEnded   = "ended"   // a session that was connected
	eventRefused = "refused" // one that was not, or several of them
)

// line is the text of a line while it grows, key by key. Each session pays for its line,
// and encoding/json takes about four times as long. Keys that do not apply are left out.
type line struct{ text []byte }

// session writes the line of one session: its keys are those of record.End, but event
// stands for refused.
func (l *line) session(e *record.End, replica string, at time.Time) {
	event := eventEnded
	if e.Refused {
		event = eventRefused
	}
	l.begin(at, event, 1)
	l.string("session", e.ID)
	l.string("replica", replica)
	l.string("generation", e.Generation)
	l.address("client", e.Client)
	l.string("user", e.User)
	l.rules(&e.Session)
	l.string("would_refuse", e.WouldRefuse)
	l.request(&e.Session)
	l.address("dialled", e.Dialled)
	l.address("bound", e.Bound)
	l.address("peer", e.Peer)
	if e.Confirmed != nil {
		l.key("confirmed")
		l.text = strconv.AppendBool(l.text, *e.Confirmed)
	}
	l.time("began", e.Began)
	l.key("seconds")
	l.text = strconv.AppendFloat(l.text, e.Seconds, 'f', -1, 64)
	l.number("bytes_up", e.BytesUp)
	l.number("bytes_down", e.BytesDown)
	l.string("reason", e.Reason)
	l.string("error", e.Error)
	l.string("failed_addresses", e.FailedAddresses)
	l.held(e.Held)
	if e.UDP != nil {
		l.association(e.UDP)
	}
	l.end()
}

// sum writes the line that sums up refusals. Its keys mean what they mean for a session,
// and have the value that all of them share.
func (l *line) sum(s *sum, replica string, at time.Time) {
	e := &s.first
	l.begin(at, eventRefused, s.count)
	l.time("from", e.Time)
	l.time("until", s.until)
	l.string("replica", replica)
	l.string("reason", s.reason)
	l.string("source", sourceName(s.source))
	l.string("generation", e.Generation)
	l.string("user", e.User)
	l.rules(&e.Session)
	l.request(&e.Session)
	l.string("error", e.Error)
	l.held(e.Held)
	l.end()
}

func (l *line) begin(at time.Time, event string, count int) {
	l.text = append(l.text[:0], '{')
	l.time("time", at)
	l.string("event", event)
	l.number("count", int64(count))
}

func (l *line) end() { l.text = append(l.text, '}', '\n') }

func (l *line) rules(s *record.Session) {
	l.string("client_rule", s.ClientRule)
	l.string("client_rule_name", s.ClientRuleName)
	l.string("client_rule_at", s.ClientRuleAt)
	l.string("rule", s.Rule)
	l.string("rule_name", s.RuleName)
	l.string("rule_at", s.RuleAt)
	l.string("pool", s.Pool)
	l.string("limit_key", s.LimitKey)
}

func (l *line) request(s *record.Session) {
	if s.SOCKS != 0 {
		l.number("socks", int64(s.SOCKS))
	}
	l.string("command", s.Command)
	l.string("target", s.Target)
}

func (l *line) held(h *record.Held) {
	if h != nil {
		l.key("held")
		l.value(h)
	}
}

func (l *line) association(u *record.UDP) {
	l.address("udp_relay", u.UDPRelay)
	l.address("udp_client", u.UDPClient)
	if u.UDPClientMoves != 0 {
		l.number("udp_client_moves", u.UDPClientMoves)
	}
	l.number("datagrams_up", u.DatagramsUp)
	l.number("datagrams_down", u.DatagramsDown)
	if len(u.Dropped) > 0 {
		l.key("dropped")
		l.value(u.Dropped)
	}
}

// key begins a key, which needs no escapes.
func (l *line) key(name string) {
	if len(l.text) > 1 {
		l.text = append(l.text, ',')
	}
	l.text = append(l.text, '"')
	l.text = append(l.text, name...)
	l.text = append(l.text, '"', ':')
}

func (l *line) string(key, s string) {
	switch {
	case s == "":
	case isPlain(s):
		l.key(key)
		l.text = append(l.text, '"')
		l.text = append(l.text, s...)
		l.text = append(l.text, '"')
	default:
		l.key(key)
		l.value(s)
	}
}

// isPlain reports whether a text is itself in JSON, and printable.
func isPlain(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			return false
		}
	}
	return true
}

func (l *line) number(key string, n int64) {
	l.key(key)
	l.text = strconv.AppendInt(l.text, n, 10)
}

func (l *line) time(key string, t time.Time) {
	l.key(key)
	l.text = append(l.text, '"')
	l.text = t.AppendFormat(l.text, time.RFC3339Nano)
	l.text = append(l.text, '"')
}

func (l *line) address(key string, a netip.AddrPort) {
	switch {
	case !a.IsValid():
	case a.Addr().Zone() != "": // a name
		l.string(key, a.String())
	default:
		l.key(key)
		l.text = append(l.text, '"')
		l.text = a.AppendTo(l.text)
		l.text = append(l.text, '"')
	}
}

// value writes what few lines have.
func (l *line) value(v any) {
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(v); err != nil {
		panic(err) // a line has no value that JSON lacks
	}
	l.text = append(l.text, printable.JSON(bytes.TrimSpace(text.Bytes()))...)
}

// sourceName returns an IPv4 address without the length of its prefix.
func sourceName(source netip.Prefix) string {
	switch {
	case !source.IsValid():
		return ""
	case source.IsSingleIP():
		return source.Addr().String()
	}
	return source.String()
}
