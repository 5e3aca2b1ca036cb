package policyfile

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"usher/cmd/usher/internal/settings"
	"usher/proxy/decide"
	"usher/proxy/rules"
)

// What serve loads is looked over too, with what serve would do.
func TestReloadedRulesAreLinted(t *testing.T) {
	open := write(t, filepath.Join(t.TempDir(), "sockd.conf"), "socksmethod: none\nclient pass { from: 0/0 to: 0/0 }\nsocks pass { from: 0/0 to: 192.0.2.0/24 command: connect }\nsocks pass { from: 0/0 to: 192.0.2.0/25 command: connect }\n")
	for _, c := range []struct {
		listen string
		want   []string
	}{
		{"127.0.0.1:1080", []string{"this rule never matches"}},
		{"[::1]:1080", []string{"this rule never matches"}},
		{":1080", []string{"anybody who can connect may use this proxy", "this rule never matches"}},
		{"192.0.2.1:1080", []string{"anybody who can connect may use this proxy", "this rule never matches"}},
	} {
		cfg := settings.Config{RuleFile: open, Listen: []settings.HostPort{settings.HostPort(c.listen)}}
		policy, _, err := Load(cfg)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, d := range Lint(t.Context(), cfg, policy.Decide()) {
			if d.Severity != rules.Warning && d.Severity != rules.Danger || d.Remedy == "" {
				t.Errorf("not a warning with a remedy: %v", d)
			}
			got = append(got, d.Message)
		}
		if len(got) != len(c.want) {
			t.Errorf("%s: got %q, want %q", c.listen, got, c.want)
			continue
		}
		for i, want := range c.want {
			if !strings.HasPrefix(got[i], want) {
				t.Errorf("%s: got %q, want %q", c.listen, got[i], want)
			}
		}
	}
}

// A password asked of those who offer one keeps nobody out.
func TestOptionalPasswordsLeaveTheProxyOpen(t *testing.T) {
	const rest = "client pass { from: 0/0 to: 0/0 }\nsocks pass { from: 0/0 to: 192.0.2.0/24 }\n"
	for methods, open := range map[string]bool{"username none": true, "username": false} {
		set, _ := rules.Parse("f", []byte("socksmethod: "+methods+"\n"+rest), rules.Env{})
		found := Lint(t.Context(), settings.Config{Listen: []settings.HostPort{":1080"}}, &decide.Policy{Rules: set, Logins: true})
		warned := slices.ContainsFunc(found, func(d rules.Diagnostic) bool {
			return strings.HasPrefix(d.Message, "anybody who can connect may use this proxy")
		})
		if warned != open {
			t.Errorf("socksmethod: %s: warned %v, want %v: %v", methods, warned, open, found)
		}
	}
}

// write writes a file of the test and returns its name.
func write(t *testing.T, name, text string) string {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}
