package main

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// However often rules are replaced by others, only the generations with sessions and the
// rules of the last two loads have series. Those of an old generation end with its last
// session.
func TestReloadsLeaveNoSeries(t *testing.T) {
	t.Parallel()
	const reloads = 200
	rules := func(i int) string {
		return fmt.Sprintf(`
client pass { from: 127.0.0.0/8 to: 0/0 }
socks pass { from: 0/0 to: 192.0.2.0/24
 rule.name: pooled-%[1]d
 session.pool: pool-%[1]d
 session.max: %[1]d }
socks pass { from: 0/0 to: 0/0
 rule.name: limited-%[1]d
 session.max: 7 }
socks pass { from: 0/0 to: 192.0.2.0/23
 rule.name: tried-%[1]d
 session.mode: report
 session.max: 7 }
`, i)
	}
	file := ruleFile(t, rules(1))
	p := launch(t, "USHER_CONFIG="+file)
	held, code := connect(t, p, webServer(t))
	if code != 0 {
		t.Fatal("reply", code)
	}
	p.eventually("/metrics", `usher_limit_sessions{generation="g1-`)
	oldest := labels(p.series(), "generation")
	for i := range reloads {
		write(t, file, rules(i+2))
		p.signal(syscall.SIGHUP)
		p.loggedTimes("reloaded", i+1)
	}
	// Quick reloads may share a number.
	p.eventually("/metrics", fmt.Sprintf(`rule="limited-%d"`, reloads+1))
	name := func(format string, numbers ...int) (list []string) {
		for _, n := range numbers {
			list = append(list, fmt.Sprintf(format, n))
		}
		return list
	}
	// The counters of the rules before the last reload stay for one more reload.
	all := p.series()
	for label, want := range map[string][]string{
		"pool": name("pool-%d", 1, reloads+1),
		"rule": slices.Concat(name("limited-%d", 1, reloads, reloads+1), name("pooled-%d", 1, reloads, reloads+1),
			name("tried-%d", 1, reloads, reloads+1)),
	} {
		got := slices.DeleteFunc(labels(all, label), func(v string) bool { return v == "" || strings.HasPrefix(v, "c:") })
		if slices.Sort(want); !slices.Equal(got, want) {
			t.Errorf("%s: there are series of %v, want %v", label, got, want)
		}
	}
	if got := labels(all, "generation"); len(got) != 2 || !slices.Contains(got, oldest[0]) {
		t.Errorf("there are series of the generations %v, want %s and the one in force", got, oldest[0])
	}
	held.Close()
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		got := labels(p.series(), "generation")
		if len(got) == 1 && got[0] != oldest[0] {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("the last session of %s has ended, and there are series of %v", oldest[0], got)
		}
	}
}

// series returns the series of /metrics that are Usher's own.
func (p *process) series() (list []string) {
	p.t.Helper()
	_, body := p.get("/metrics")
	for line := range strings.Lines(body) {
		if strings.HasPrefix(line, "usher_") {
			list = append(list, line)
		}
	}
	return list
}

// labels returns the values of a label in these series, each once and sorted.
func labels(series []string, label string) (values []string) {
	value := regexp.MustCompile(`[{,]` + label + `="([^"]*)"`)
	for _, line := range series {
		if found := value.FindStringSubmatch(line); found != nil {
			values = append(values, found[1])
		}
	}
	slices.Sort(values)
	return slices.Compact(values)
}
