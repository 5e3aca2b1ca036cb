package proxy_test

import (
	"fmt"
	"strings"
	"testing"

	"usher/proxy/socks"
)

// A rule keeps its series when another one is inserted before it, with and without
// a name.
func TestRuleKeepsItsSeries(t *testing.T) {
	to := echo(t)
	for name, rule := range map[string]string{
		"with a name":    "socks pass { from: 0/0 to: 127.0.0.0/8\n rule.name: web }\n",
		"without a name": "socks pass { from: 0/0 to: 127.0.0.0/8 }\n",
	} {
		t.Run(name, func(t *testing.T) {
			const client = "client pass { from: 0/0 to: 0/0 }\n"
			const inserted = "socks block { from: 0/0 to: 192.0.2.0/24 }\n"
			w := newWorld(t, client+rule)
			w.client().connect(to, socks.Succeeded)
			if n := w.metric("usher_sessions_admitted_total", "rule", "s1", "command", "connect"); n != 1 {
				t.Fatalf("%v admitted, want 1", n)
			}
			w.server.SetPolicy(policy(t, client+inserted+rule))
			w.client().connect(to, socks.Succeeded)
			if n := w.metric("usher_sessions_admitted_total", "rule", "s2", "command", "connect"); n != 2 {
				t.Errorf("%v admitted by the rule that moved to s2, want 2", n)
			}
			if _, exists := w.series("usher_sessions_admitted_total", "rule", "s1", "command", "connect"); exists {
				t.Error("the rule that blocks, now s1, has the admissions of another one")
			}
		})
	}
}

// Every outcome that a rule can have for a session has a series from the load on, at
// the start and after a reload. Otherwise increase() would miss the first event.
func TestSeriesBeginAtZero(t *testing.T) {
	const rules = `
client pass { from: 0/0 to: 0/0
	session.throttle: 100/1 }
socks block { from: 0/0 to: 192.0.2.0/24 }
socks pass { from: 0/0 to: 0/0
	command: bind bindreply udpassociate
	session.max: 1 }
socks pass { from: 0/0 to: 0/0
	session.state.key: from
	session.state.max: 1 }
socks pass { from: 0/0 to: 0/0
	session.state.key: from
	session.state.throttle: 1/60 }
`
	check := func(t *testing.T, w *world) {
		t.Helper()
		want := []string{
			"admitted c1 command negotiate", "admitted s2 command bind", "admitted s2 command udpassociate", "admitted s3 command connect",
			"rejected  reason blocked", "rejected c1 reason blocked", "rejected s1 reason blocked", "rejected c1 reason throttle",
			"rejected s2 reason limit", "rejected s3 reason limit", "rejected s4 reason throttle", "rejected s4 reason throttle_keys",
		}
		for _, rule := range []string{"c1", "s2", "s3"} {
			for _, reason := range []string{"store_unavailable", "store_recovering", "store_mismatch"} {
				want = append(want, "rejected "+rule+" reason "+reason)
			}
		}
		for _, line := range want {
			f := strings.Split(line, " ")
			if n, exists := w.series("usher_sessions_"+f[0]+"_total", "rule", f[1], f[2], f[3]); n != 0 || !exists {
				t.Errorf("%s: %v, exists: %v; want 0", line, n, exists)
			}
		}
		for _, line := range []string{"admitted s1 command connect", "admitted s2 command connect", "rejected s2 reason throttle", "rejected s2 reason blocked", "rejected c1 reason throttle_keys"} {
			f := strings.Split(line, " ")
			if _, exists := w.series("usher_sessions_"+f[0]+"_total", "rule", f[1], f[2], f[3]); exists {
				t.Errorf("%s: exists, and cannot happen", line)
			}
		}
	}
	t.Run("at the start", func(t *testing.T) { check(t, newWorld(t, rules)) })
	t.Run("after a reload", func(t *testing.T) {
		w := newWorld(t, anybody)
		w.server.SetPolicy(policy(t, rules))
		check(t, w)
	})
	w := newWorld(t, anybody)
	if n, exists := w.series("usher_connect_errors_total", "type", "refused"); n != 0 || !exists {
		t.Errorf("usher_connect_errors_total: %v, exists: %v; want 0", n, exists)
	}
	// What the replica lacks is no fault of a target, nor of a rule.
	for _, reason := range []string{"sessions", "descriptors", "local_ports", "memory", "udp_ports", "udp_socket"} {
		if n, exists := w.series("usher_sessions_rejected_total", "rule", "", "reason", reason); n != 0 || !exists {
			t.Errorf("refusals for %s: %v, exists: %v; want 0", reason, n, exists)
		}
		if _, exists := w.series("usher_connect_errors_total", "type", reason); exists {
			t.Errorf("%s is counted as an error of the target", reason)
		}
	}
}

// Series of removed rules do not accumulate. Those of a rule that still has a session
// stay.
func TestSeriesOfGoneRulesEnd(t *testing.T) {
	to := echo(t)
	numbered := func(i int) string {
		return fmt.Sprintf("client pass { from: 0/0 to: 0/0 }\nsocks pass { from: 0/0 to: 0/0\n rule.name: rule-%d }\n", i)
	}
	w := newWorld(t, numbered(0))
	held := w.client()
	held.connect(to, socks.Succeeded)
	for i := 1; i <= 20; i++ {
		w.server.SetPolicy(policy(t, numbered(i)))
	}
	admitted := func(i int) bool {
		_, exists := w.series("usher_sessions_admitted_total", "rule", fmt.Sprintf("rule-%d", i), "command", "connect")
		return exists
	}
	for i := range 21 {
		if want := i == 0 || i >= 19; admitted(i) != want {
			t.Errorf("rule-%d has series: %v, want %v", i, !want, want)
		}
	}
	held.Close()
	w.left("", 0)
	w.server.SetPolicy(policy(t, numbered(20)))
	if admitted(0) {
		t.Error("a rule without sessions still has series")
	}
}

// A name may move to another rule while the digest stays. Each series must exist once
// only, because Prometheus rejects duplicate ones.
func TestNameMovesToAnotherRule(t *testing.T) {
	to, elsewhere := echo(t), echo(t)
	const client = "client pass { from: 0/0 to: 0/0 }\n"
	one := fmt.Sprintf("socks pass { from: 0/0 to: 127.0.0.0/8 port = %d\n", to.Port) + " %s }\n"
	other := "socks pass { from: 0/0 to: 127.0.0.0/8\n %s }\n"
	first := policy(t, client+fmt.Sprintf(one, "rule.name: web")+fmt.Sprintf(other, ""))
	second := policy(t, client+fmt.Sprintf(one, "")+fmt.Sprintf(other, "rule.name: web"))
	if first.Rules.Digest() != second.Rules.Digest() {
		t.Fatal("the digests differ")
	}
	w := newWorld(t, anybody)
	w.server.SetPolicy(first)
	a := w.client()
	a.connect(to, socks.Succeeded)
	w.server.SetPolicy(second)
	b := w.client()
	b.connect(elsewhere, socks.Succeeded)
	if n := w.metric("usher_sessions", "rule", "web", "generation", w.server.Generation(), "command", "connect"); n != 2 {
		t.Errorf("%v sessions of the rules called web, want 2", n)
	}
}

// Rules that are loaded again before their number is known are one generation once it
// is known.
func TestNumberIsKnownLate(t *testing.T) {
	t.Parallel()
	to := echo(t)
	st, strict := losable(t)
	st.cut.Store(true)
	w := newWorld(t, anybody, strict)
	w.client().connect(to, socks.Succeeded)
	w.server.SetPolicy(policy(t, anybody))
	w.client().connect(to, socks.Succeeded)
	if label := w.server.Generation(); !strings.HasPrefix(label, "g?-") {
		t.Fatalf("the generation has the label %s although the store is unreachable", label)
	}
	st.cut.Store(false)
	eventually(t, func() string {
		label := w.server.Generation()
		if n := w.metric("usher_sessions", "rule", "s1", "generation", label, "command", "connect"); n != 2 || strings.HasPrefix(label, "g?-") {
			return fmt.Sprintf("%v sessions of the generation %s, want 2", n, label)
		}
		return ""
	})
}
