package proxy_test

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"usher/proxy"
	"usher/proxy/record"
	"usher/proxy/socks"
)

// ends keeps what Options.Ended was told.
type ends struct {
	mu   sync.Mutex
	list []record.End
}

func (e *ends) add(one record.End) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.list = append(e.list, one)
}

// one returns the record once there is one.
func (e *ends) one(t *testing.T) (end record.End) {
	t.Helper()
	eventually(t, func() string {
		e.mu.Lock()
		defer e.mu.Unlock()
		if len(e.list) != 1 {
			return fmt.Sprintf("%d records, want one: %+v", len(e.list), e.list[max(len(e.list)-3, 0):])
		}
		end = e.list[0]
		return ""
	})
	return end
}

// withEnds tells e about the end of each session.
func withEnds(e *ends) setup {
	return func(o *proxy.Options, _ *proxy.Policy) { o.Ended, o.Replica = e.add, "web1" }
}

// only waits until one session is in this state, and returns it.
func (w *world) only(state string) (one record.Running) {
	w.t.Helper()
	eventually(w.t, func() string {
		list := w.server.Running()
		if len(list) != 1 || list[0].State != state {
			return fmt.Sprintf("running %+v, want one that is %s", list, state)
		}
		one = list[0]
		return ""
	})
	return one
}

// local returns the address of this client.
func (c *client) local() netip.AddrPort { return c.LocalAddr().(*net.TCPAddr).AddrPort() }

// A session can be seen from its client-rule to its end, and its record at the end says
// the same, and what became of it.
func TestRunning(t *testing.T) {
	var told ends
	w := newWorld(t, `
client pass { from: 0/0 to: 0/0
 rule.name: in }
socks pass { from: 0/0 to: 0/0
 rule.name: out
 session.state.key: user
 session.state.max: 2 }
`, withMonica(t), withEnds(&told))
	to := echo(t)
	c := w.client()
	c.must(socks.WriteGreeting(c, socks.Username))
	c.expect([]byte{5, 2})
	one := w.only(record.Negotiating)
	if one.Client != c.local() || one.ClientRule != "c1" || one.ClientRuleName != "in" || one.Rule != "" || one.Target != "" {
		t.Errorf("negotiating: %+v", one)
	}
	c.must(socks.WriteCredentials(c, socks.Credentials{User: "monica", Password: "sesame"}))
	c.expect([]byte{1, 0})
	if reply := c.request(socks.Request{Version: socks.V5, Addr: to}); reply.Code != socks.Succeeded {
		t.Fatalf("reply %d", reply.Code)
	}
	c.echoes("hello")
	eventually(t, func() string { // what has come back is counted a moment later
		one = w.only(record.Relaying)
		if one.BytesUp < 5 || one.BytesDown < 5 {
			return fmt.Sprintf("%+v", one)
		}
		return ""
	})
	if one.Client != c.local() || one.User != "monica" || one.Target != to.String() || one.Dialled.String() != to.String() ||
		one.Rule != "s1" || one.RuleName != "out" || one.LimitKey != "user=monica" || one.Replica != "web1" ||
		one.BytesUp != 5 || one.BytesDown != 5 || one.Command != "connect" || one.SOCKS != 5 {
		t.Errorf("relaying: %+v", one)
	}
	if one.IdleSeconds < 0 || one.IdleSeconds > one.Seconds {
		t.Errorf("idle for %v of %v seconds", one.IdleSeconds, one.Seconds)
	}
	c.Close()
	end := told.one(t)
	if end.Reason != "done" || end.Refused || end.Error != "" || end.Time.Before(end.Began) {
		t.Errorf("end: %+v", end)
	}
	end.Seconds = one.Seconds
	if end.Generation = one.Generation; end.Session != one.Session { // the number of a generation may become known
		t.Errorf("at the end %+v, before %+v", end.Session, one.Session)
	}
	if list := w.server.Running(); len(list) > 0 {
		t.Errorf("still running: %+v", list)
	}
	if list := w.server.Refusals(); len(list) > 0 {
		t.Errorf("refusals: %+v", list)
	}
}

// An operator ends a session.
func TestEnd(t *testing.T) {
	var told ends
	w := newWorld(t, anybody, withEnds(&told))
	to := echo(t)
	one, other := w.client(), w.client()
	one.connect(to, socks.Succeeded)
	id := w.only(record.Relaying).ID
	other.connect(to, socks.Succeeded)
	if ended := w.server.End("no-such", id); !slices.Equal(ended, []string{id}) {
		t.Errorf("ended %v, want %v", ended, id)
	}
	if end := told.one(t); end.ID != id || end.Reason != "ended" || end.Refused {
		t.Errorf("end: %+v", end)
	}
	one.closed()
	other.echoes("still here")
	if ended := w.server.End(id); ended != nil {
		t.Errorf("ended %v, which had ended before", ended)
	}
}

// A refusal can be seen after it.
func TestRefusals(t *testing.T) {
	var told ends
	w := newWorld(t, "client block { from: 0/0 to: 0/0 }", withEnds(&told))
	w.client().closed()
	end, list := told.one(t), w.server.Refusals()
	if len(list) != 1 || list[0] != end || end.Reason != "blocked" || !end.Refused || end.ClientRule != "c1" {
		t.Errorf("refusals %+v, told %+v", list, end)
	}
}

// The list of sessions in the log has a line for each, the oldest first.
func TestLogRunning(t *testing.T) {
	w := newWorld(t, "client pass { from: 0/0 to: 0/0 }\nsocks pass { from: 0/0 to: 0/0\n rule.name: out }")
	to := echo(t)
	for range 3 {
		c := w.client()
		c.connect(to, socks.Succeeded)
		c.echoes("hello")
	}
	negotiating := w.client()
	negotiating.must(socks.WriteGreeting(negotiating, socks.NoAuth))
	negotiating.expect([]byte{5, 0})
	eventually(t, func() string { // what has come back is counted a moment later
		for _, one := range w.server.Running() {
			if one.State == record.Relaying && (one.BytesUp < 5 || one.BytesDown < 5) {
				return fmt.Sprintf("%+v", one)
			}
		}
		return ""
	})
	w.server.LogRunning(t.Context())
	lines := w.log.wait(t, 5)
	for i, line := range lines[:3] {
		if line["msg"] != "session running" || line["state"] != "relaying" || line["target"] != to.String() || line["rule_name"] != "out" ||
			line["bytes_up"] != 5.0 || line["bytes_down"] != 5.0 || line["reason"] != nil || line["client"] == nil ||
			line["idle_seconds"].(float64) > line["seconds"].(float64) || i > 0 && line["seconds"].(float64) > lines[i-1]["seconds"].(float64) {
			t.Errorf("line %d: %v", i, line)
		}
	}
	if line := lines[3]; line["state"] != "negotiating" || line["target"] != nil || line["rule"] != nil || line["client_rule"] != "c1" {
		t.Errorf("negotiating: %v", line)
	}
	if line := lines[4]; line["msg"] != "sessions listed" || line["sessions"] != 4.0 || line["listed"] != 4.0 {
		t.Errorf("last: %v", line)
	}
}
