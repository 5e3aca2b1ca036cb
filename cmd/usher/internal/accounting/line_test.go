package accounting

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"testing"
	"time"

	"usher/proxy/printable"
	"usher/proxy/record"
)

// ofSession has the keys of the line of one session: those of the record that the API
// shows, too. encoding/json writes what line.session must write.
type ofSession struct {
	Time  time.Time `json:"time"`
	Event string    `json:"event"`
	Count int       `json:"count"` // always 1
	record.End
	// The key of End has the same fact as event, which stands for it.
	Refused *struct{} `json:"refused,omitempty"`
}

// ofSum has the keys of the line that sums up refusals.
type ofSum struct {
	Time  time.Time `json:"time"`
	Event string    `json:"event"`
	Count int       `json:"count"`
	From  time.Time `json:"from"`
	Until time.Time `json:"until"`

	Replica string `json:"replica,omitempty"`
	Reason  string `json:"reason"`
	// Source is an IPv4 address or an IPv6 network, and empty for that of many.
	Source string `json:"source,omitempty"`

	Generation     string       `json:"generation,omitempty"`
	User           string       `json:"user,omitempty"`
	ClientRule     string       `json:"client_rule,omitempty"`
	ClientRuleName string       `json:"client_rule_name,omitempty"`
	ClientRuleAt   string       `json:"client_rule_at,omitempty"`
	Rule           string       `json:"rule,omitempty"`
	RuleName       string       `json:"rule_name,omitempty"`
	RuleAt         string       `json:"rule_at,omitempty"`
	Pool           string       `json:"pool,omitempty"`
	LimitKey       string       `json:"limit_key,omitempty"`
	SOCKS          int          `json:"socks,omitempty"`
	Command        string       `json:"command,omitempty"`
	Target         string       `json:"target,omitempty"`
	Error          string       `json:"error,omitempty"`
	Held           *record.Held `json:"held,omitempty"`
}

func referenceSession(e *record.End, replica string, at time.Time) any {
	line := &ofSession{Time: at, Event: eventEnded, Count: 1, End: *e}
	if e.Refused {
		line.Event = eventRefused
	}
	line.Replica = replica
	return line
}

func referenceSum(s *sum, replica string, at time.Time) any {
	e := &s.first
	return &ofSum{
		Time: at, Event: eventRefused, Count: s.count, From: e.Time, Until: s.until,
		Replica: replica, Reason: s.reason, Source: sourceName(s.source),
		Generation: e.Generation, User: e.User,
		ClientRule: e.ClientRule, ClientRuleName: e.ClientRuleName, ClientRuleAt: e.ClientRuleAt,
		Rule: e.Rule, RuleName: e.RuleName, RuleAt: e.RuleAt, Pool: e.Pool, LimitKey: e.LimitKey,
		SOCKS: e.SOCKS, Command: e.Command, Target: e.Target, Error: e.Error, Held: e.Held,
	}
}

// encoded returns the line that encoding/json makes of a reference.
func encoded(t *testing.T, reference any) string {
	t.Helper()
	var text bytes.Buffer
	out := json.NewEncoder(&text)
	out.SetEscapeHTML(false)
	if err := out.Encode(reference); err != nil {
		t.Fatal(err)
	}
	return string(printable.JSON(text.Bytes()))
}

// drawn are texts, addresses and times of every kind.
var drawn = struct {
	texts     []string
	addresses []netip.AddrPort
	times     []time.Time
}{
	texts: []string{"plain ~!", `a"b\c`, "<&>", "tab\tnul\x00", "del\x7f", "\u202e\u2028é世😀\U000e0041", "bad\xff"},
	addresses: []netip.AddrPort{
		netip.MustParseAddrPort("192.0.2.1:80"), netip.MustParseAddrPort("[2001:db8::1]:65535"),
		netip.MustParseAddrPort("[::ffff:192.0.2.1]:1"), netip.MustParseAddrPort(`[fe80::1%a"b]:2`),
	},
	times: []time.Time{
		time.Unix(1_700_000_000, 123_456_789).UTC(), time.Unix(1_700_000_000, 0).UTC(),
		time.Unix(1_700_000_000, 250_000_000).In(time.FixedZone("", -5400)),
	},
}

func pick[T any](r *rand.Rand, list []T) reflect.Value {
	return reflect.ValueOf(list[r.IntN(len(list))])
}

// fill gives about half of the fields a value. A field of a new kind fails the test.
func fill(t *testing.T, r *rand.Rand, v reflect.Value) {
	t.Helper()
	if v.Kind() != reflect.Struct && r.IntN(2) == 0 {
		return
	}
	switch v.Interface().(type) {
	case time.Time:
		v.Set(pick(r, drawn.times))
		return
	case netip.AddrPort:
		if r.IntN(2) == 0 {
			v.Set(pick(r, drawn.addresses))
		}
		return
	case netip.Addr:
		v.Set(reflect.ValueOf(drawn.addresses[r.IntN(len(drawn.addresses))].Addr()))
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			fill(t, r, v.Field(i))
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(t, r, v.Elem())
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		for i := range v.Len() {
			fill(t, r, v.Index(i))
		}
	case reflect.Map:
		v.Set(reflect.ValueOf(map[string]int64{"b": 1, "a\xff": r.Int64N(9)}))
	case reflect.String:
		v.Set(pick(r, drawn.texts))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(r.Int64() - r.Int64())
	case reflect.Float64:
		v.SetFloat(float64(r.Int64N(1e12)) / 1e6)
	default:
		t.Fatalf("a field is %v", v.Type())
	}
}

// Lines are what encoding/json writes for the documented keys, whatever the sessions are.
func TestLinesAreThoseOfTheKeys(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var l line
	for range 2000 {
		var s sum
		fill(t, r, reflect.ValueOf(&s.first).Elem())
		s.first.ID, s.first.Reason = "k-1", "done" // each line has them
		s.account = account{netip.MustParsePrefix("2001:db8::/64"), "limit"}
		s.count, s.until = 1+r.IntN(9), drawn.times[0]
		at := drawn.times[r.IntN(len(drawn.times))]
		l.session(&s.first, "web1", at)
		if want := encoded(t, referenceSession(&s.first, "web1", at)); string(l.text) != want {
			t.Fatalf("%s\nwant\n%s", l.text, want)
		}
		l.sum(&s, "web1", at)
		if want := encoded(t, referenceSum(&s, "web1", at)); string(l.text) != want {
			t.Fatalf("%s\nwant\n%s", l.text, want)
		}
	}
}
