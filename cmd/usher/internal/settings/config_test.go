package settings

import (
	"math"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"usher/proxy"
)

func TestDefaults(t *testing.T) {
	cfg, unknown, err := Load(map[string]string{"PATH": "/bin"})
	if err != nil || len(unknown) != 0 {
		t.Fatal(err, unknown)
	}
	if cfg.ListenSet || len(cfg.Listen) != 1 || cfg.Listen[0] != "127.0.0.1:1080" || cfg.AdminListen != "127.0.0.1:9090" ||
		cfg.Store != Memory || cfg.LeaseTTL != 10*time.Second || cfg.LeaseLoss != "keep" {
		t.Errorf("defaults %+v", cfg)
	}
}

func TestValues(t *testing.T) {
	cfg, unknown, err := Load(map[string]string{
		"USHER_LISTEN":              " 0.0.0.0:1080 ,[::]:1081",
		"USHER_ADMIN_LISTEN":        "off",
		"USHER_STORE":               "redis://u:geheim@redis:6379/1?client_name=x",
		"USHER_PROXY_PROTOCOL_FROM": "10.1.2.3/8, 192.0.2.7,fd00::/8",
		"USHER_UDP_ADVERTISE":       "192.0.2.7, 2001:db8::7",
		"USHER_UDP_PORTS":           "20000-20999",
		"USHER_UDP_RELAY_FROM":      "192.0.2.8",
		"USHER_UDP_RELAY_CLIENTS":   "10.0.0.0/8, 2001:db8::/32",
		"USHER_LEASE_TTL":           "2s",
		"USHER_LISTENER":            "x",
		"USHER_COLOUR":              "",
	})
	if err != nil {
		t.Fatal(err)
	}
	if !cfg.ListenSet || len(cfg.Listen) != 2 || cfg.Listen[1] != "[::]:1081" || cfg.AdminListen != "" {
		t.Errorf("addresses %+v", cfg)
	}
	if got := cfg.Store.String(); got != "redis://redis:6379/1" {
		t.Errorf("the store is shown as %s", got)
	}
	if got := cfg.ProxyFrom; len(got) != 3 || got[0].String() != "10.0.0.0/8" || got[1].String() != "192.0.2.7/32" {
		t.Errorf("networks %v", got)
	}
	if got := cfg.UDPAdvertise; len(got) != 2 || got[0].String() != "192.0.2.7" || got[1].String() != "2001:db8::7" {
		t.Errorf("advertised %v", got)
	}
	if cfg.UDPPorts != (PortRange{20000, 20999}) || len(cfg.UDPRelayFrom) != 1 || len(cfg.UDPRelayClients) != 2 {
		t.Errorf("ports %v, balancers %v, their clients %v", cfg.UDPPorts, cfg.UDPRelayFrom, cfg.UDPRelayClients)
	}
	if strings.Join(unknown, " ") != "USHER_COLOUR USHER_LISTENER" {
		t.Errorf("unknown %v", unknown)
	}
}

// Kubernetes sets variables for a Service named usher and for one named usher-admin.
// They are neither settings nor mistakes.
func TestServiceLinks(t *testing.T) {
	links := map[string]string{
		"USHER_SERVICE_HOST":          "10.0.0.10",
		"USHER_SERVICE_PORT":          "1080",
		"USHER_SERVICE_PORT_SOCKS":    "1080",
		"USHER_PORT":                  "tcp://10.0.0.10:1080",
		"USHER_PORT_1080_TCP":         "tcp://10.0.0.10:1080",
		"USHER_PORT_1080_TCP_PROTO":   "tcp",
		"USHER_PORT_1080_TCP_PORT":    "1080",
		"USHER_PORT_1080_TCP_ADDR":    "10.0.0.10",
		"USHER_ADMIN_SERVICE_HOST":    "10.0.0.11",
		"USHER_ADMIN_SERVICE_PORT":    "9090",
		"USHER_ADMIN_PORT":            "tcp://10.0.0.11:9090",
		"USHER_ADMIN_PORT_9090_TCP":   "tcp://10.0.0.11:9090",
		"USHER_STORE_PORT_6379_TCP":   "tcp://10.0.0.12:6379",
		"USHER_STORE_SERVICE_PORT_DB": "6379",
	}
	want, _, err := Load(nil)
	if err != nil {
		t.Fatal(err)
	}
	cfg, unknown, err := Load(links)
	if err != nil || len(unknown) > 0 {
		t.Errorf("unknown %v, error %v", unknown, err)
	}
	if !reflect.DeepEqual(cfg, want) {
		t.Errorf("settings %+v, want the defaults", cfg)
	}
	// These may be meant for Usher.
	_, unknown, err = Load(map[string]string{"USHER_PORT": "1080", "USHER_ADMIN_PORT": "9090", "USHER_PORTS": "tcp://10.0.0.10:1080"})
	if err != nil || len(unknown) != 3 {
		t.Errorf("unknown %v, error %v; want all three", unknown, err)
	}
}

func TestBadValues(t *testing.T) {
	for _, c := range []struct{ name, value, want string }{
		{"USHER_LISTEN", "1080", `USHER_LISTEN="1080": "1080" is not an address and a port; write it like 127.0.0.1:1080`},
		{"USHER_LISTEN", "127.0.0.1:99999", "write it like"},
		{"USHER_LISTEN", "127.0.0.1:1080,", "write it like"},
		{"USHER_ADMIN_LISTEN", "none", "write it like"},
		{"USHER_LEASE_TTL", "10", `USHER_LEASE_TTL="10": not a duration; write a number with its unit`},
		{"USHER_LEASE_TTL", "1ms", "out of range; choose a duration from 1s to 10m0s"},
		{"USHER_STORE_WAIT", "-1s", "out of range"},
		{"USHER_AUTH_FAILURES", "-1", `USHER_AUTH_FAILURES="-1": out of range; choose a number from 0 to 1000000`},
		{"USHER_AUTH_FAILURES", "few", `USHER_AUTH_FAILURES="few": not a whole number`},
		{"USHER_LEASE_LOSS", "drop", `USHER_LEASE_LOSS="drop": unknown value; choose one of keep | close`},
		{"USHER_STORE_DOWN", "close", `USHER_STORE_DOWN="close": unknown value; choose one of refuse | admit`},
		{"USHER_LOG_LEVEL", "loud", "choose one of debug | info | warn | error"},
		{"USHER_PROXY_PROTOCOL_FROM", "balancer", `"balancer" is not a network`},
		{"USHER_UDP_ADVERTISE", "usher.example.org", "is not an IP address that clients can send to; write it like"},
		{"USHER_UDP_ADVERTISE", "0.0.0.0", "is not an IP address that clients can send to"},
		{"USHER_UDP_ADVERTISE", "192.0.2.7,192.0.2.8", "192.0.2.7 and 192.0.2.8 are of the same family; remove one of them"},
		{"USHER_UDP_PORTS", "20999-20000", `USHER_UDP_PORTS="20999-20000": "20999-20000" is not a port range; write it like`},
		{"USHER_UDP_PORTS", "0-9", "is not a port range"},
		{"USHER_UDP_PORTS", "1-65536", "is not a port range"},
		{"USHER_UDP_RELAY_FROM", "relayd", `"relayd" is not a network`},
		{"USHER_CLUSTER", "prod/a", "not a cluster name; use 1 to 64 letters"},
		{"USHER_CLUSTER", "prod eu", "not a cluster name; use 1 to 64 letters"},
		{"USHER_CLUSTER", "{prod}", "not a cluster name; use 1 to 64 letters"},
		{"USHER_CLUSTER", "prod:1", "not a cluster name; use 1 to 64 letters"},
		{"USHER_CLUSTER", "prod\nuser", "not a cluster name; use 1 to 64 letters"},
		{"USHER_CLUSTER", "prød", "not a cluster name; use 1 to 64 letters"},
		{"USHER_CLUSTER", "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", "not a cluster name; use 1 to 64 letters"},
		{"USHER_STORE", "etcd://geheim@host", `USHER_STORE: unknown kind of store "etcd"`},
		{"USHER_STORE", "redis://:ge%heim@host", "USHER_STORE: not a URL (not shown"},
		{"USHER_STORE", "redis:geheim", "USHER_STORE: the URL has no host"},
		{"USHER_STORE", "redis+sentinel://:geheim@a,b", "USHER_STORE: the URL lacks the name of the primary"},
		{"USHER_STORE", "redis://:ge/heim@a", "USHER_STORE: an @ after the host (not shown"},
	} {
		_, _, err := Load(map[string]string{c.name: c.value})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s=%s: %v, want %s", c.name, c.value, err, c.want)
		}
		if err != nil && (strings.Contains(err.Error(), "geheim") || strings.Contains(err.Error(), "ge%heim")) {
			t.Errorf("%s=%s: the error shows the password: %v", c.name, c.value, err)
		}
	}
}

// Secrets made with echo end in a newline, and env files may keep quotation marks.
// Neither may change a setting: with another cluster name, a replica would count apart.
func TestWhiteSpaceAndQuotes(t *testing.T) {
	good := map[string]string{
		"USHER_LISTEN": "127.0.0.1:1", "USHER_ADMIN_LISTEN": "off", "USHER_CONFIG": "/a b", "USHER_USERS_FILE": "/u",
		"USHER_GROUPS_FILE": "/g", "USHER_STORE": "redis://:geheim@h", "USHER_CLUSTER": "prod.eu-1_a", "USHER_LEASE_TTL": "2s",
		"USHER_LEASE_LOSS": "keep", "USHER_STORE_DOWN": "admit", "USHER_PROXY_PROTOCOL_FROM": "10.0.0.0/8",
		"USHER_MAX_NEGOTIATING": "7", "USHER_UDP_ADVERTISE": "192.0.2.7", "USHER_UDP_PORTS": "1-9",
		"USHER_LOG_FORMAT": "text", "USHER_LOG_LEVEL": "debug",
	}
	want, _, err := Load(good)
	if err != nil {
		t.Fatal(err)
	}
	around := func(before, after string) map[string]string {
		var list []string
		for name, value := range good {
			list = append(list, name+"="+before+value+after)
		}
		return Environ(list)
	}
	for _, space := range []string{"\n", "\r\n", " ", "\t"} {
		if got, _, err := Load(around(space, space)); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("with %q around: %v\n%+v, want\n%+v", space, err, got, want)
		}
	}
	if cfg, _, err := Load(Environ([]string{"USHER_LISTEN= \n"})); err != nil || cfg.ListenSet {
		t.Errorf("white space alone: %v, set %v", err, cfg.ListenSet)
	}
	for _, quote := range []string{`"`, "'"} {
		for _, environ := range []map[string]string{around(quote, quote), around("", quote+"\n"), around(quote, "")} {
			_, _, err := Load(environ)
			for name := range good {
				if err == nil || strings.Count(err.Error(), name+": the value begins or ends with a quotation mark; remove it") != 1 {
					t.Errorf("%s in %s: %v", name, quote, err)
				}
			}
			if err != nil && strings.Contains(err.Error(), "geheim") {
				t.Error("the error shows the password")
			}
		}
	}
}

func TestAdmitNeedsKeep(t *testing.T) {
	for loss, want := range map[string]string{
		"keep":  "",
		"close": "USHER_STORE_DOWN=admit contradicts USHER_LEASE_LOSS=close; remove one of them",
	} {
		_, _, err := Load(map[string]string{"USHER_STORE_DOWN": "admit", "USHER_LEASE_LOSS": loss})
		if (err == nil) != (want == "") || err != nil && err.Error() != want {
			t.Errorf("with %s: %v, want %q", loss, err, want)
		}
	}
}

func TestGroupsNeedUsers(t *testing.T) {
	if _, _, err := Load(map[string]string{"USHER_GROUPS_FILE": "groups"}); err == nil || !strings.Contains(err.Error(), "USHER_USERS_FILE") {
		t.Error(err)
	}
	if _, _, err := Load(map[string]string{"USHER_GROUPS_FILE": "groups", "USHER_USERS_FILE": "users"}); err != nil {
		t.Error(err)
	}
}

func TestSecretFilesNeedAStore(t *testing.T) {
	for _, name := range []string{"USHER_STORE_USER_FILE", "USHER_STORE_PASSWORD_FILE", "USHER_SENTINEL_USER_FILE", "USHER_SENTINEL_PASSWORD_FILE"} {
		if _, _, err := Load(map[string]string{name: "/x"}); err == nil || !strings.Contains(err.Error(), "need a Redis; set USHER_STORE to its URL") {
			t.Errorf("%s: %v", name, err)
		}
		if _, _, err := Load(map[string]string{name: "/x", "USHER_STORE": "redis+sentinel://a/m"}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestNegotiatingByDefault(t *testing.T) {
	for descriptors, want := range map[int]int{1: 1, 1024: 256, 20000: 5000, 65536: 16384, 1 << 20: 16384, math.MaxInt32: 16384} {
		if got := (Config{}).capacity(descriptors, 0).Negotiating; got != want {
			t.Errorf("%d descriptors: %d, want %d", descriptors, got, want)
		}
	}
	if got := (Config{Negotiating: 100000}).capacity(1024, 0).Negotiating; got != 100000 {
		t.Errorf("%d where 100000 is set", got)
	}
}

// All that runs at the same time fits into the descriptors and the memory.
func TestCapacity(t *testing.T) {
	for _, c := range []struct {
		descriptors           int
		memory                uint64
		sessions, negotiating int
	}{
		{40, 0, 10, 10}, {1024, 0, 408, 256}, {20000, 0, 9760, 5000}, {1 << 20, 0, 524048, 16384},
		{20000, 24 << 30, 9760, 5000}, {1 << 20, 512 << 20, 4096, 8192}, {1024, 64 << 20, 408, 256}, {1024, 32 << 20, 256, 256},
	} {
		got := (Config{}).capacity(c.descriptors, c.memory)
		if got.Sessions != c.sessions || got.Negotiating != c.negotiating {
			t.Errorf("%d descriptors, %d MiB: %+v, want %d sessions and %d that negotiate",
				c.descriptors, c.memory>>20, got, c.sessions, c.negotiating)
		}
		used := got.Needed()
		if used > c.descriptors || proxy.MinNegotiating(got.Sessions) > got.Reserve() {
			t.Errorf("%d descriptors: %+v take %d", c.descriptors, got, used)
		}
		if got.Pipes < 1 || c.memory > 0 && uint64(got.Pipes)*pipeMemory > c.memory/8 {
			t.Errorf("%d MiB: %d pipes of 1 MiB", c.memory>>20, got.Pipes)
		}
		if mem := uint64(sessionMemory*got.Sessions + negotiatorMemory*got.Negotiating); c.memory > 0 && mem > c.memory*3/4 {
			t.Errorf("%d MiB: %+v take %d MiB", c.memory>>20, got, mem>>20)
		}
	}
	if got := (Config{Sessions: 7}).capacity(1024, 0).Sessions; got != 7 {
		t.Errorf("%d sessions where 7 are set", got)
	}
}

// The memory for password hashes is not available to sessions.
func TestCapacityBesideHashes(t *testing.T) {
	for memory, want := range map[uint64]int{0: 408, 512 << 20: 408, 100 << 20: 400, 64 << 20: 256} {
		got := (Config{UsersFile: "users"}).capacity(1024, memory)
		used := uint64(sessionMemory*got.Sessions+negotiatorMemory*got.Negotiating+pipeMemory*got.Pipes) + min(hashMemory, memory/2)
		if got.Sessions > want || memory > 0 && used > memory {
			t.Errorf("%d MiB: %+v take %d MiB, want at most %d sessions", memory>>20, got, used>>20, want)
		}
	}
}

// The kernel may buffer as much as half of the memory, unless its settings bound it.
func TestBuffered(t *testing.T) {
	for _, c := range []struct {
		memory, stalled uint64
		sessions        int
		users           string
		want            int64
	}{
		{512 << 20, 20 << 20, 0, "", 256 << 20},
		{512 << 20, 20 << 20, 0, "users", 224 << 20},
		{512 << 20, 1 << 20, 300, "users", 0}, // docker-compose.yml
		{512 << 20, 0, 300, "", 256 << 20},
		{512 << 20, 20 << 20, 16, "", 0},
		{0, 20 << 20, 0, "", 0},
	} {
		got := (Config{Sessions: c.sessions, UsersFile: c.users}).capacity(1024, c.memory)
		if got.Stalled = c.stalled; got.buffered() != c.want {
			t.Errorf("%+v: %d MiB", c, got.buffered()>>20)
		}
	}
}

// What the kernel buffers for a session follows from its settings.
func TestStalled(t *testing.T) {
	dir := t.TempDir() + "/"
	if got := stalled(dir); got != 0 {
		t.Errorf("%d without the settings", got)
	}
	for name, text := range map[string]string{"tcp_rmem": "4096\t131072\t6291456\n", "tcp_wmem": "4096\t16384\t4194304\n"} {
		if err := os.WriteFile(dir+name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got := stalled(dir); got != 20<<20 {
		t.Errorf("%d bytes, want 20 MiB", got)
	}
}

func TestAllMistakesAtOnce(t *testing.T) {
	_, _, err := Load(map[string]string{"USHER_LEASE_TTL": "x", "USHER_LISTEN": "y", "USHER_DRAIN_GRACE": "z"})
	if err == nil || strings.Count(err.Error(), "USHER_") != 3 {
		t.Error(err)
	}
}

// The help and docs/configuration.md describe each variable in the same words.
func TestDescribed(t *testing.T) {
	help := Help()
	page, err := os.ReadFile("../../../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range variables() {
		if len(v.help) < 20 || v.kind == "" {
			t.Errorf("%s is not described", v.name)
		}
		def := v.def
		if def == "" {
			def = "none"
		}
		if head := "    " + v.name + "  (" + v.kind + "; default: " + def + ")\n"; !strings.Contains(help, head) {
			t.Errorf("the help lacks %q", head)
		}
		if def != "none" {
			def = "`" + def + "`"
		}
		_, row, found := strings.Cut(string(page), "\n| `"+v.name+"` | "+def+" | ")
		text, _, _ := strings.Cut(row, " |\n")
		if !found || plain(text) != v.help {
			t.Errorf("docs/configuration.md says about %s, by default %s:\n%s\nthe help says:\n%s", v.name, def, plain(text), v.help)
		}
	}
	inPage := strings.Count(string(page), "\n| `USHER_")
	if inPage != len(variables()) {
		t.Errorf("docs/configuration.md describes %d variables, there are %d", inPage, len(variables()))
	}
}

// plain returns a line of a page without its marks: a link to a page is its path.
func plain(markdown string) string {
	links := regexp.MustCompile(`\[([a-z-]+\.md)\]\([^)]*\)`)
	return strings.ReplaceAll(links.ReplaceAllString(markdown, "docs/$1"), "`", "")
}
