package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"usher/proxy/admin/api"
	"usher/store/redisstore/redistest"
)

// An operator at a terminal of 80 columns, and three processes on one Redis.

// verb is how a verb of the command line has ended.
type verb struct{ out, err, code string }

// operate runs a verb against the admin listener of p. env are further variables.
func operate(t *testing.T, p *process, env []string, args ...string) verb {
	t.Helper()
	return verbAt(p.admin, args, env...)
}

// verbAt runs a verb against an admin listener.
func verbAt(admin string, args []string, env ...string) verb {
	cmd := exec.Command("usher", append(args, "--admin", admin)...)
	cmd.Env = append(append(os.Environ(), "COLUMNS=80"), env...)
	var out, complaints bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaints
	code := "0"
	if err := cmd.Run(); err != nil {
		code = exitStatus(err)
	}
	return verb{out.String(), complaints.String(), code}
}

// oneLine is a text without the line ends and blanks of a table.
func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }

// tells demands that a verb succeeds, has no complaint, and prints each of the texts.
func tells(t *testing.T, p *process, args []string, texts ...string) string {
	t.Helper()
	v := operate(t, p, nil, args...)
	if v.code != "0" || v.err != "" {
		t.Errorf("usher %v: exit code %s, %q on the standard error", args, v.code, v.err)
	}
	for _, want := range texts {
		if !strings.Contains(oneLine(v.out), want) {
			t.Errorf("usher %v does not print %q:\n%s", args, want, v.out)
		}
	}
	return v.out
}

// readAnswer reads what a verb has printed with --json.
func readAnswer[A any](t *testing.T, p *process, args ...string) (a A) {
	t.Helper()
	if err := json.Unmarshal([]byte(tells(t, p, append(args, "--json"))), &a); err != nil {
		t.Errorf("usher %v --json: %v", args, err)
	}
	return a
}

// Why was this client refused, who holds the slots, what do I do? Five sessions on three
// replicas fill a limit of five, and replica 1 refuses the sixth. Replica 3 tells all of
// it, and ends a session, so that the next request passes.
func TestOperatorFindsOutWhy(t *testing.T) {
	t.Parallel()
	c := startTrio(t)
	target := webServer(t)
	at := c.web[2]
	c.fill(target)
	if _, code := connect(t, c.web[0], target); code != 2 {
		t.Fatal("the sixth session: reply", code)
	}
	c.tellsOfFullLimit(at)

	why := tells(t, at, []string{"why", "127.0.0.1"},
		"127.0.0.1 was refused once", "connect to "+target+" from 127.0.0.1 on web1", "reason limit:", "(session.max: 5)",
		"rule s1 web at", c.file+":3, generation g1-", "then 5 of 5 sessions, 2 of them on web1", "now 5 of 5 sessions: web1 (2), web2 (2), web3 (1)",
		"held by 127.0.0.1 (5)", "to do end a session", "ends the session that is idle longest")
	_, rest, found := strings.Cut(oneLine(why), "usher end ")
	id, _, _ := strings.Cut(rest, " ")
	if !found || !strings.Contains(id, "-") {
		t.Fatalf("no session to end in\n%s", why)
	}

	without := operate(t, at, []string{"USHER_ADMIN_TOKEN="}, "end", id)
	if without.code != "1" || without.out != "" || !strings.Contains(without.err, "USHER_ADMIN_TOKEN") {
		t.Errorf("end without the token: %+v", without)
	}
	c.sessions(at, 5)
	if v := verbAt("nonsense", []string{"end", id}); v.code != "2" || !strings.Contains(v.err, "HOST:PORT") {
		t.Errorf("an address without a port: %+v", v)
	}
	with := operate(t, at, []string{"USHER_ADMIN_TOKEN=" + adminToken}, "end", id)
	if with != (verb{"ended: session " + id + "\n", "", "0"}) {
		t.Errorf("end with the token: %+v", with)
	}
	again := operate(t, at, []string{"USHER_ADMIN_TOKEN=" + adminToken}, "end", id)
	if again.code != "1" || !strings.Contains(again.err, "session "+id) || !strings.Contains(again.err, "usher sessions lists") {
		t.Errorf("end of a session that is not: %+v", again)
	}
	redistest.Eventually(t, patience, "the next request is granted", func() bool {
		_, code := connect(t, c.web[0], target)
		return code == 0
	})
}

// The tables and the JSON of a full limit, and what they say if a replica is stopped.
func TestOperatorSeesTheCluster(t *testing.T) {
	t.Parallel()
	c := startTrio(t)
	target := webServer(t)
	c.fill(target)
	connect(t, c.web[0], target)
	at := c.web[2]
	c.tellsOfFullLimit(at)

	tells(t, at, []string{"sessions"}, "SESSION CLIENT USER TARGET", "127.0.0.1:", " web1 relaying", " web2 relaying", " web3 relaying", "s1 web", target)
	tells(t, at, []string{"sessions", "--replica", "web2"}, " web2 relaying")
	tells(t, at, []string{"limits"}, "s1 web 5 5 full 1 5", "web1 (2), web2 (2), web3 (1)", "s1 web is held by: 127.0.0.1 (5)")
	tells(t, at, []string{"refusals"}, " limit 127.0.0.1:", "5/5 web1")
	tells(t, at, []string{"status"}, "cluster default is ok: 3 replicas, 5 sessions", "replica web3, process")
	if a := readAnswer[api.Sessions](t, at, "sessions"); a.Total != 5 || len(a.Sessions) != 5 || len(a.Missing) != 0 {
		t.Errorf("sessions: %+v", a)
	}
	if a := readAnswer[api.Limits](t, at, "limits"); len(a.Limits) != 1 || a.Limits[0].Sessions != 5 || a.Limits[0].Refused != 1 {
		t.Errorf("limits: %+v", a)
	}
	if a := readAnswer[api.Refusals](t, at, "refusals"); a.Total != 1 || a.Refusals[0].Replica != "web1" || a.Refusals[0].Held == nil {
		t.Errorf("refusals: %+v", a)
	}

	c.web[1].signal(syscall.SIGSTOP)
	for _, args := range [][]string{{"sessions"}, {"limits"}, {"refusals"}, {"why", "127.0.0.1"}, {"sessions", "--json"}, {"status"}} {
		v := operate(t, at, nil, args...)
		if v.code != "0" || v.out == "" || strings.Contains(v.out, "is missing in this answer") {
			t.Errorf("usher %v with a stopped replica: %+v", args, v)
		}
		want := "usher: replica web2 at " + c.web[1].admin + " is missing in this answer: "
		if strings.Count(v.err, "\n") != 1 || !strings.HasPrefix(v.err, want) {
			t.Errorf("usher %v with a stopped replica: %q on the standard error, want one line that begins with %q", args, v.err, want)
		}
	}
	c.web[1].signal(syscall.SIGCONT)
}

// fill opens five sessions: two on web1, two on web2, one on web3.
func (c *trio) fill(target string) {
	c.t.Helper()
	for _, i := range []int{0, 1, 2, 0, 1} {
		_, code := connect(c.t, c.web[i], target)
		if code != 0 {
			c.t.Fatal("reply", code)
		}
	}
}

// tellsOfFullLimit waits until p tells of five sessions and a refusal. Counts go to the
// store with the next message.
func (c *trio) tellsOfFullLimit(p *process) {
	c.t.Helper()
	c.sessions(p, 5)
	redistest.Eventually(c.t, patience, "the shares of a full limit", func() bool {
		a, err := client(p).Limits(c.t.Context())
		return err == nil && len(a.Limits) == 1 && a.Limits[0].Sessions == 5 && a.Limits[0].Refused == 1 &&
			fmt.Sprint(a.Limits[0].Shares) == "[{web1 2} {web2 2} {web3 1}]"
	})
}
