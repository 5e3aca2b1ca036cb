package proxy_test

import (
	"testing"

	"usher/proxy/socks"
)

// log: connect in either rule of a session writes a line when the session is connected.
// The line at the end is always written.
func TestLogConnect(t *testing.T) {
	to := echo(t)
	for _, c := range []struct {
		name, client, socks string
		lines               int // once connected
	}{
		{"socks-rule", "", "log: connect", 1},
		{"client-rule", "log: connect", "", 1},
		{"both", "log: connect", "log: connect disconnect", 1},
		{"neither", "", "", 0},
		{"other values", "log: error", "log: disconnect error", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, "client pass { from: 0/0 to: 0/0\n"+c.client+"\n}\nsocks pass { from: 0/0 to: 0/0\n"+c.socks+"\n}\n")
			one := w.client()
			one.connect(to, socks.Succeeded)
			one.echoes("hello") // what comes back was relayed after the line
			w.log.wait(t, c.lines)
			one.Close()
			w.left("", 0)
			lines := w.log.wait(t, c.lines+1)
			end := lines[c.lines]
			if end["msg"] != "session ended" {
				t.Errorf("log %v, want the end", end)
			}
			for _, line := range lines[:c.lines] {
				connected(t, line, end)
			}
		})
	}
}

// connected compares the line about the connect with the line at the end.
func connected(t *testing.T, line, end map[string]any) {
	t.Helper()
	if line["msg"] != "session connected" || line["level"] != "INFO" {
		t.Errorf("log %v", line)
	}
	for _, key := range []string{"session", "client", "client_rule", "client_rule_at", "rule", "rule_at", "socks", "command", "target", "dialled"} {
		if line[key] == nil || line[key] != end[key] {
			t.Errorf("%s is %v, and %v at the end", key, line[key], end[key])
		}
	}
	if line["generation"] == nil { // its number may become known meanwhile
		t.Errorf("log %v", line)
	}
	for _, key := range []string{"reason", "seconds", "bytes_up", "bytes_down"} {
		if line[key] != nil || end[key] == nil {
			t.Errorf("%s is %v, and %v at the end", key, line[key], end[key])
		}
	}
}

// A refused session has no line about a connect, whatever log: says.
func TestLogConnectRefused(t *testing.T) {
	w := newWorld(t, "client pass { from: 0/0 to: 0/0 \n log: connect }\nsocks pass { from: 0/0 to: 0/0\n log: connect }\n")
	w.client().connect(refused(t), socks.ConnectionRefused)
	if line := w.reason("refused"); line["msg"] != "session refused" {
		t.Errorf("log %v", line)
	}
}
