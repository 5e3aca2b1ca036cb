package main

import (
	"net/netip"
	"os"
	"regexp"
	"strings"
	"testing"

	"usher/cmd/usher/internal/policyfile"
	"usher/proxy/rules"
)

// TestComposeBoundsServices looks for what keeps a service of docker-compose.yml
// from gaining privileges, or from taking the machine's memory or processes.
func TestComposeBoundsServices(t *testing.T) {
	text, err := os.ReadFile("../../docker-compose.yml")
	if err != nil {
		t.Fatal(err)
	}
	_, services, _ := strings.Cut(string(text), "\nservices:\n")
	services, _, _ = strings.Cut(services, "\nnetworks:\n")
	names := regexp.MustCompile(`(?m)^  (\w+):$`).FindAllStringSubmatch(services, -1)
	parts := regexp.MustCompile(`(?m)^  \w+:$`).Split(services, -1)[1:]
	if len(names) < 4 {
		t.Fatalf("services %q, want four or more", names)
	}
	for i, part := range parts {
		for _, want := range []string{`security_opt: ["no-new-privileges:true"]`, `cap_drop: ["ALL"]`, "read_only: true", "mem_limit: ", "pids_limit: "} {
			if !strings.Contains(part, "\n    "+want) {
				t.Errorf("%s has no %s", names[i][1], want)
			}
		}
	}
}

// TestComposeRulesKeepPrivateTargets asks the rules of the demo for private targets
// and for BIND.
func TestComposeRulesKeepPrivateTargets(t *testing.T) {
	text, err := os.ReadFile("../../deploy/compose/usher/sockd.conf")
	if err != nil {
		t.Fatal(err)
	}
	set, found := policyfile.Parse("sockd.conf", text, policyfile.Accounts{UsersFile: true})
	if set == nil {
		t.Fatal(found)
	}
	q := rules.Query{From: netip.MustParseAddrPort("172.18.0.1:4711"), Version: rules.SOCKS5}
	ask := func(c rules.Command, to string) bool {
		q.Command, q.To = c, rules.Target{Addr: netip.MustParseAddr(to), Port: 80}
		return set.MatchSocks(q).Pass()
	}
	for _, to := range []string{"127.0.0.1", "10.0.0.1", "172.18.0.2", "168.63.129.16", "169.254.169.254", "192.0.0.192", "198.18.0.1", "2001:2::1", "fd00:ec2::254", "224.0.0.1"} {
		for _, c := range []rules.Command{rules.Connect, rules.Bind, rules.UDPAssociate} {
			if ask(c, to) {
				t.Errorf("%v: %s is reached", c, to)
			}
		}
	}
	if ask(rules.Bind, "9.9.9.9") || !ask(rules.Connect, "9.9.9.9") {
		t.Error("the Internet is not reached by CONNECT alone")
	}
}
