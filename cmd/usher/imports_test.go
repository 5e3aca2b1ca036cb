package main

import (
	"os/exec"
	"strings"
	"testing"
)

// forbidden are imports that would break the structure, with the reason for each. A
// package stands for itself and the packages below it.
var forbidden = []struct{ from, to, why string }{
	{"usher/store", "usher/limiter", "the store's contract is what limiters are built on"},
	{"usher/store", "usher/proxy", "a store counts, and knows no SOCKS"},
	{"usher/limiter", "usher/proxy", "the limiter knows limits, not who is limited by which rule"},
	{"usher/limiter", "usher/store/redisstore", "the limiter keeps to the contract, whatever is behind it"},
	{"usher/limiter", "usher/store/memstore", "the limiter keeps to the contract, whatever is behind it"},
	{"usher/limiter", "github.com/redis", "the limiter knows no Redis"},
	{"usher/proxy", "usher/store", "the limiter is the proxy's only door to what is counted"},
	{"usher/proxy", "github.com/redis", "the proxy knows no Redis"},
	{"usher/proxy", "usher/cmd", "what is put together does not know who does it"},
	{"usher/proxy/socks", "usher/", "wire formats are a leaf"},
	{"usher/proxy/socks", "net", "wire formats read and write, they open no sockets"},
	{"usher/proxy/socks", "net/http", "wire formats read and write, they open no sockets"},
	{"usher/proxy/socks", "os", "wire formats know bytes, and no files, variables or descriptors"},
	{"usher/proxy/rules", "usher/", "the rule language is a leaf"},
	{"usher/proxy/rules", "net", "matching is pure: no lookup, no socket"},
	{"usher/proxy/rules", "net/http", "matching is pure: no lookup, no socket"},
	{"usher/proxy/rules", "crypto/tls", "matching is pure: no lookup, no socket"},
	{"usher/proxy/rules", "os", "matching is pure: the text is handed in, and a file means the same on every machine"},
	{"usher/proxy/rules", "log", "matching is pure: findings are results"},
	{"usher/proxy/rules", "log/slog", "matching is pure: findings are results"},
	{"usher/proxy/decide", "net", "deciding is pure: what asks the network is handed in"},
	{"usher/proxy/decide", "net/http", "deciding is pure: what asks the network is handed in"},
	{"usher/proxy/decide", "os", "deciding is pure: files are read before"},
	{"usher/proxy/decide", "syscall", "deciding is pure: what asks the system is handed in"},
	{"usher/proxy/decide", "golang.org/x/sys", "deciding is pure: what asks the system is handed in"},
	{"usher/proxy/decide", "time", "deciding is pure: it neither waits nor looks at the clock"},
	{"usher/proxy/decide", "context", "deciding is pure: it never waits"},
	{"usher/proxy/decide", "sync", "deciding is pure: nobody shares its state"},
	{"usher/proxy/decide", "log", "deciding is pure: findings are results"},
	{"usher/proxy/decide", "usher/limiter", "deciding says which rule is charged, the session charges"},
	{"usher/proxy/decide", "usher/proxy/users", "passwords are checked by the session, before decisions about the user"},
	{"usher/proxy/decide", "usher/proxy/resolve", "deciding is pure: lookups are handed in"},
	{"usher/proxy/selfaddr", "usher/", "the machine's addresses are the same for everybody"},
	{"usher/proxy/selfaddr", "log/slog", "leaves return errors, the session logs"},
	{"usher/proxy/relay", "usher/proxy/rules", "a relay moves bytes, without knowing whose or why"},
	{"usher/proxy/relay", "usher/limiter", "a relay asks whether it may write, and not why"},
	{"usher/proxy/udp", "usher/limiter", "an association asks whether it may write, and not why"},
	{"usher/proxy/udp", "usher/proxy/users", "passwords are checked before there is an association"},
	{"usher/proxy/udp", "log/slog", "rooms of the proxy return errors and figures, the session logs"},
	{"usher/proxy/relay", "log/slog", "rooms of the proxy return errors, the session logs"},
	{"usher/proxy/fair", "usher/", "sharing among sources is a leaf"},
	{"usher/proxy/race", "usher/", "connecting to the first that answers knows not who asks"},
	{"usher/proxy/idle", "usher/", "a limit on silence knows not of what"},
	{"usher/proxy/sockopt", "usher/", "sockets are opened without knowing for whom"},
	{"usher/proxy/header", "usher/", "a PROXY header is read without knowing whom to trust"},
	{"usher/proxy/resolve", "usher/", "names are resolved without knowing who asks"},
	{"usher/proxy/resolve", "log/slog", "leaves return errors, the session logs"},
	{"usher/proxy/printable", "usher/", "escaping text is a leaf"},
	{"usher/cmd/usher/internal/explain", "usher/cmd/usher/internal/settings", "explaining is told the policy and the listeners, not the environment"},
	{"usher/cmd/usher/internal/explain", "usher/limiter", "explaining counts nothing"},
	{"usher/proxy/users", "usher/", "the users file is a leaf"},
	{"usher/proxy/users", "log/slog", "leaves return errors, the session logs"},
	{"usher/proxy/socks", "log", "leaves return errors, the session logs"},
	{"usher/store", "log/slog", "stores return errors, the composition root logs"},
	{"usher/limiter", "log/slog", "the limiter returns errors, the composition root logs"},
	{"usher/proxy/admin", "usher/proxy/rules", "admin shows what it is handed, and decides nothing"},
	{"usher/cmd/usher/internal/settings", "usher/limiter", "settings are values; main builds the parts from them"},
	{"usher/cmd/usher/internal/settings", "log/slog", "settings return errors and warnings, main logs"},
	{"usher/cmd/usher/internal/policyfile", "usher/limiter", "loading a policy counts nothing"},
	{"usher/cmd/usher/internal/policyfile", "log/slog", "findings are results, main logs or prints them"},
	{"usher/cmd/usher/internal/listen", "usher/limiter", "listeners count nothing"},
	{"usher/cmd/usher/internal/handover", "usher/cmd/usher/internal/settings", "sockets are handed over without knowing why they are open"},
	{"usher/cmd/usher/internal/handover", "log/slog", "the handover returns errors, main logs"},
	{"usher/cmd/usher/internal/agent", "usher/cmd/usher/internal/settings", "the agent is told what to say"},
	{"usher/cmd/usher/internal/agent", "usher/limiter", "the agent counts nothing"},
	{"usher/cmd/usher/internal/agent", "log/slog", "the agent returns errors, main logs"},
	{"usher/cmd/usher/internal/probe", "usher/cmd/usher/internal/settings", "a probe knows the server by its address alone"},
	{"usher/cmd/usher/internal/probe", "usher/limiter", "a probe is a client"},
	{"usher/cmd/usher/internal/probe", "log/slog", "what a probe found is a result"},
	{"usher/cmd/usher/internal/follow", "usher/proxy/rules", "following is about texts; main loads them"},
	{"usher/cmd/usher/internal/follow", "usher/cmd/usher/internal/settings", "following is told the cluster, the keys and the cache"},
	{"usher/cmd/usher/internal/rollout", "usher/proxy", "a rollout is about texts and reports"},
	{"usher/cmd/usher/internal/rollout", "usher/store/redisstore", "a rollout is told what to ask"},
	{"usher/cmd/usher/internal/man", "usher/proxy", "the manual page is made of the help alone"},
	{"usher/cmd/usher/internal/build", "usher/", "what this binary is, is a leaf"},
	{"usher/cmd/usher/internal/exit", "usher/", "exit codes are a leaf"},
	{"usher/cmd/usher/internal/signals", "usher/", "signals are received without knowing what they do"},
	{"usher/cmd/usher/internal/stores", "usher/proxy", "a store is opened without knowing what is counted"},
	{"usher/cmd/usher/internal/stores", "log/slog", "opening returns errors, the service logs"},
	{"usher/cmd/usher/internal/control", "usher/cmd/usher/internal/settings", "control is told which usher to ask"},
	{"usher/cmd/usher/internal/control", "usher/limiter", "control is a client"},
	{"usher/cmd/usher/internal/control", "log/slog", "what came of a request is a result"},
	{"usher/cmd/usher/internal/systemd", "usher/", "systemd is told what others decide"},
	{"usher/cmd/usher/internal/counting", "usher/proxy", "limits are counted without knowing who is limited"},
	{"usher/cmd/usher/internal/monitor", "usher/limiter", "the monitor shows what it is handed"},
	{"usher/cmd/usher/internal/monitor", "usher/proxy/rules", "the monitor shows what it is handed"},
	{"usher/cmd/usher/internal/inforce", "usher/cmd/usher/internal/handover", "a policy is replaced without touching listeners"},
	{"usher/cmd/usher/internal/storewatch", "usher/proxy", "the watch knows the store, and no SOCKS"},
	{"usher/cmd/usher/internal/logging", "usher/limiter", "the log writes what it is handed"},
	{"usher/store/limit", "usher/", "the values of limits are a leaf"},
	{"usher/store/published", "usher/", "what is published is a leaf"},
	{"usher/store/card", "usher/", "what replicas show each other is a leaf"},
	{"usher/proxy/admin/peers", "usher/limiter", "asking other replicas counts nothing"},
	{"usher/store/published", "net", "what is published is values, and stores carry them"},
	{"usher/store/published", "os", "what is published is values: key files are read elsewhere"},
	{"usher/store/memstore", "usher/store/redisstore", "stores stand beside each other"},
	{"usher/store/redisstore", "usher/store/memstore", "stores stand beside each other"},
}

// allowed are packages of values that may be imported in spite of the list above.
var allowed = []struct{ from, to, why string }{
	{"usher/proxy/users", "usher/proxy/fair", "hashes take turns by source"},
	{"usher/proxy/resolve", "usher/proxy/fair", "lookups take turns by source"},
	{"usher/proxy", "usher/store/limit", "rules, limiter and stores speak of limits in the same values"},
}

func TestImportsRunOneWay(t *testing.T) {
	out, err := exec.Command("go", "list", "-f", `{{.ImportPath}}:{{join .Imports " "}}`, "usher/...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	below := func(path, root string) bool {
		return path == root || strings.HasPrefix(path, strings.TrimSuffix(root, "/")+"/")
	}
	mayImport := func(from, to string) bool {
		for _, a := range allowed {
			if below(from, a.from) && to == a.to {
				return true
			}
		}
		return false
	}
	var seen int
	for line := range strings.Lines(string(out)) {
		from, imports, _ := strings.Cut(strings.TrimSpace(line), ":")
		for _, to := range strings.Fields(imports) {
			for _, f := range forbidden {
				exact := f.to == "net" // net/netip is fine
				if !mayImport(from, to) && below(from, f.from) && (exact && to == f.to || !exact && below(to, f.to) && !below(to, f.from)) {
					t.Errorf("%s imports %s: %s", from, to, f.why)
				}
			}
		}
		seen++
	}
	if seen < 10 {
		t.Errorf("go list named %d packages only", seen)
	}
}

// Pure packages must not reach the network through their imports, either.
func TestPurePackagesReachNoNetwork(t *testing.T) {
	for _, pure := range []string{"usher/proxy/rules", "usher/proxy/decide"} {
		out, err := exec.Command("go", "list", "-deps", pure).Output()
		if err != nil {
			t.Fatalf("go list: %v", err)
		}
		for dep := range strings.Lines(string(out)) {
			switch dep = strings.TrimSpace(dep); dep {
			case "net", "net/http", "log", "log/slog", "golang.org/x/sys/unix":
				t.Errorf("%s depends on %s", pure, dep)
			}
		}
	}
}
