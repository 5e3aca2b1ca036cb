package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"

	"usher/cmd/usher/internal/settings"
)

// TestExplainAnswersAsServe asks both about what serve refuses although the
// rules pass it, and about what it does not.
func TestExplainAnswersAsServe(t *testing.T) {
	t.Parallel()
	env := "USHER_CONFIG=" + ruleFile(t, "external: ::1\nexternal: 127.0.0.1\n"+passLoopback)
	p := launch(t, env)
	everywhere := launch(t, env, "USHER_LISTEN=0.0.0.0:0")
	_, port, err := net.SplitHostPort(everywhere.socks)
	if err != nil {
		t.Fatal(err)
	}
	only6 := "USHER_CONFIG=" + ruleFile(t, "external: ::1\n"+passLoopback)
	p6 := launch(t, only6)
	web := webServer(t)
	refused := map[*process]int{}
	for _, c := range []struct {
		server      *process
		env, target string
		reply       byte
		reason      string
	}{
		{p, env, web, 0, ""},
		{p, env, p.socks, 2, "self"},
		{p, env, p.admin, 2, "self"},
		{p, env, "0.0.0.0:80", 8, "target"},
		{p, env, "127.0.0.1:0", 8, "target"},
		{p6, only6, web, 8, "no_external"},
		{everywhere, env, "127.0.0.1:" + port, 2, "self"},
		{everywhere, env, "127.0.0.5:" + port, 2, "self"},
	} {
		if _, reply := connect(t, c.server, c.target); reply != c.reply {
			t.Errorf("serve answers %d to %s, want %d", reply, c.target, c.reply)
		}
		var out strings.Builder
		err := run(context.Background(), []string{"explain", "--json", "127.0.0.1", c.target}, system{stdout: &out, stderr: io.Discard,
			environ: settings.Environ([]string{c.env, "USHER_LISTEN=" + c.server.socks, "USHER_ADMIN_LISTEN=" + c.server.admin})})
		var said struct {
			Pass   bool
			Reason string
		}
		if err := json.Unmarshal([]byte(out.String()), &said); err != nil {
			t.Fatalf("%v: %q", err, out.String())
		}
		if c.reply == 0 {
			if err != nil || !said.Pass {
				t.Errorf("%s: %v, %+v", c.target, err, said)
			}
			continue
		}
		if end := fmt.Sprintf("reply %d, reason %s", c.reply, c.reason); !errors.Is(err, errRefused) || said.Pass || !strings.HasSuffix(said.Reason, end) {
			t.Errorf("%s: %v, %+v, want %s", c.target, err, said, end)
		}
		refused[c.server]++
		if line := c.server.loggedTimes("session refused", refused[c.server]); line["reason"] != c.reason {
			t.Errorf("%s: serve logs %v, want %s", c.target, line["reason"], c.reason)
		}
	}
}

// A name that was not resolved in time is no name without an address: the rule
// might have blocked.
func TestExplainWithoutTime(t *testing.T) {
	env := "USHER_CONFIG=" + ruleFile(t, "client pass { from: 0/0 to: 0/0 }\nsocks block { from: 0/0 to: localhost }\nsocks pass { from: 0/0 to: 0/0 }\n")
	err := run(context.Background(), []string{"explain", "--timeout", "1ns", "127.0.0.1", "127.0.0.1:80"},
		system{stdout: io.Discard, stderr: io.Discard, environ: settings.Environ([]string{env})})
	if err == nil || errors.Is(err, errRefused) || !strings.Contains(err.Error(), "--timeout") {
		t.Errorf("%v, want that there was no time", err)
	}
}
