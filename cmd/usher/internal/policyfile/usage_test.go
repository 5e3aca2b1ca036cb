package policyfile

import (
	"strings"
	"testing"

	"usher/cmd/usher/internal/explain"
	"usher/cmd/usher/internal/settings"
	"usher/proxy/rules"
)

// usage are mistakes in variables and in the arguments of usher explain, and what they
// are after the remedy, in each of its ways.
var usage = []struct {
	finds  string
	before string // variables, one a line, or "explain" and arguments; "explain4" is for SOCKS 4
	after  []string
}{
	{"set USHER_STORE to its URL (for a file of that name write ./store)", "USHER_CONFIG=store",
		[]string{"USHER_CONFIG=store\nUSHER_STORE=redis://redis.internal:6379/0", "USHER_CONFIG=./store"}},
	{"set USHER_CONFIG=store, or remove them", "USHER_CONFIG_KEY=key\nUSHER_STORE=redis://redis.internal",
		[]string{"USHER_CONFIG=store\nUSHER_CONFIG_KEY=key\nUSHER_STORE=redis://redis.internal", "USHER_STORE=redis://redis.internal"}},
	{"remove one of them", "USHER_STORE_DOWN=admit\nUSHER_LEASE_LOSS=close", []string{"USHER_STORE_DOWN=admit", "USHER_LEASE_LOSS=close"}},
	{"need a Redis; set USHER_STORE to its URL", "USHER_STORE_PASSWORD_FILE=secret",
		[]string{"USHER_STORE_PASSWORD_FILE=secret\nUSHER_STORE=redis://redis.internal"}},
	{"make one with: openssl rand -hex 24", "USHER_ADMIN_TOKEN=secret", []string{"USHER_ADMIN_TOKEN=5f0c7a1e9b3d42688f10c2d4e6a8b0c1d3e5f70911223344"}},
	{"are both set; set one of them", "USHER_ADMIN_TOKEN=5f0c7a1e9b3d42688f10c2d4\nUSHER_ADMIN_TOKEN_FILE=token",
		[]string{"USHER_ADMIN_TOKEN=5f0c7a1e9b3d42688f10c2d4"}},
	{"set both", "USHER_GROUPS_FILE=groups", []string{"USHER_GROUPS_FILE=groups\nUSHER_USERS_FILE=users"}},
	{"remove it, as what reads an env file", `USHER_CLUSTER="prod"`, []string{"USHER_CLUSTER=prod"}},
	{"write a number with its unit", "USHER_LEASE_TTL=10", []string{"USHER_LEASE_TTL=10s"}},
	{"choose a duration from 1s", "USHER_LEASE_TTL=1ns", []string{"USHER_LEASE_TTL=1s"}},
	{"choose a number from 0 to 1000000", "USHER_LOG_BUDGET=-1", []string{"USHER_LOG_BUDGET=0", "USHER_LOG_BUDGET=1000000"}},
	{"choose one of debug | info | warn | error", "USHER_LOG_LEVEL=verbose", []string{"USHER_LOG_LEVEL=debug", "USHER_LOG_LEVEL=error"}},
	{"write it like 127.0.0.1:1080 or [::1]:1080", "USHER_LISTEN=127.0.0.1", []string{"USHER_LISTEN=127.0.0.1:1080", "USHER_LISTEN=[::1]:1080"}},
	{"write it like 10.0.0.0/8, 192.0.2.7 or fd00::/8", "USHER_PROXY_PROTOCOL_FROM=balancer",
		[]string{"USHER_PROXY_PROTOCOL_FROM=10.0.0.0/8", "USHER_PROXY_PROTOCOL_FROM=192.0.2.7", "USHER_PROXY_PROTOCOL_FROM=fd00::/8"}},
	{"write it like usher.example, without a port", "USHER_ADMIN_HOSTS=usher.example:9090", []string{"USHER_ADMIN_HOSTS=usher.example"}},
	{"write it like 192.0.2.7 or 2001:db8::7", "USHER_UDP_ADVERTISE=0.0.0.0", []string{"USHER_UDP_ADVERTISE=192.0.2.7", "USHER_UDP_ADVERTISE=2001:db8::7"}},
	{"are of the same family; remove one of them", "USHER_UDP_ADVERTISE=192.0.2.7,192.0.2.8", []string{"USHER_UDP_ADVERTISE=192.0.2.7"}},
	{"write it like 20000-20999", "USHER_UDP_PORTS=all", []string{"USHER_UDP_PORTS=20000-20999"}},
	{"is not a replica name; write 1 to 64 letters", "USHER_REPLICA=a b", []string{"USHER_REPLICA=a-b"}},

	{"write redis://host:port/db, with special characters of a password as %XX", "USHER_STORE=redis.internal",
		[]string{"USHER_STORE=redis://redis.internal:6379/0"}},
	{"write special characters of a password as %XX, and @ as %40", "USHER_STORE=redis://:a/b@c@redis.internal",
		[]string{"USHER_STORE=redis://:a%2Fb%40c@redis.internal"}},
	{"unknown kind of store", "USHER_STORE=http://redis.internal",
		[]string{"USHER_STORE=redis://redis.internal", "USHER_STORE=rediss://redis.internal", "USHER_STORE=redis+cluster://redis.internal"}},
	{"the URL has no host; write redis://host:port/db", "USHER_STORE=redis:/0", []string{"USHER_STORE=redis://host:6379/0"}},
	{"the URL has no host; write rediss://host:port/db", "USHER_STORE=rediss://", []string{"USHER_STORE=rediss://host:6379/0"}},
	{"a unix socket has no host; write unix:///path/of/socket?db=0", "USHER_STORE=unix://path/of/socket",
		[]string{"USHER_STORE=unix:///path/of/socket?db=0"}},
	{"a host of the URL is malformed; write redis://host:port/db", "USHER_STORE=redis://[::1:6379", []string{"USHER_STORE=redis://[::1]:6379/0"}},
	{"write redis+cluster://host:port,host:port or redis+sentinel://host:port,host:port/master-name/db", "USHER_STORE=redis://a,b",
		[]string{"USHER_STORE=redis+cluster://a:6379,b:6379", "USHER_STORE=redis+sentinel://a:26379,b:26379/master/0"}},
	// Without TLS, everybody on the way could read the password.
	{"write rediss+cluster://host:port,host:port or rediss+sentinel://host:port,host:port/master-name/db", "USHER_STORE=rediss://a,b",
		[]string{"USHER_STORE=rediss+cluster://a:6379,b:6379", "USHER_STORE=rediss+sentinel://a:26379,b:26379/master/0"}},
	{"the path of the URL is malformed; write redis://host:port/db", "USHER_STORE=redis://host/x", []string{"USHER_STORE=redis://host:6379/0"}},
	{"lacks the name of the primary; write redis+sentinel://host:port,host:port/master-name/db", "USHER_STORE=redis+sentinel://a",
		[]string{"USHER_STORE=redis+sentinel://a:26379,b:26379/master/0"}},
	{"write rediss instead of redis", "USHER_STORE=redis://a?skip_verify=true", []string{"USHER_STORE=rediss://a?skip_verify=true"}},
	{"but the URL is not of that kind; write rediss+sentinel://", "USHER_STORE=rediss://a?sentinel_password=x",
		[]string{"USHER_STORE=rediss+sentinel://a:26379,b:26379/master/0?sentinel_password=x"}},
	{"write a number from 1 to", "USHER_STORE=redis://a?shards=0", []string{"USHER_STORE=redis://a?shards=1"}},

	{"write FROM [USER] TO:PORT [COMMAND]", "explain 192.0.2.7",
		[]string{"explain 192.0.2.7 monica example.com:443 connect", "explain 192.0.2.7 example.com:443"}},
	{"write it like 192.0.2.7 or 192.0.2.7:50000", "explain client example.com:443",
		[]string{"explain 192.0.2.7 example.com:443", "explain 192.0.2.7:50000 example.com:443"}},
	{"like example.com:443 or [2001:db8::1]:443", "explain 192.0.2.7 example.com",
		[]string{"explain 192.0.2.7 example.com:443", "explain 192.0.2.7 [2001:db8::1]:443"}},
	{"SOCKS 4 has no passwords; remove USER or --socks 4", "explain4 192.0.2.7 monica example.com:443",
		[]string{"explain4 192.0.2.7 example.com:443", "explain 192.0.2.7 monica example.com:443"}},
	{"UDP needs SOCKS 5; remove --socks 4", "explain4 192.0.2.7 example.com:443 udpassociate",
		[]string{"explain 192.0.2.7 example.com:443 udpassociate"}},
	{"and has an address; write it instead of", "explain 192.0.2.7 client.test:443 udpreply", []string{"explain 192.0.2.7 10.0.0.1:443 udpreply"}},
}

// Each remedy for a variable and for the arguments of usher explain is obeyed.
func TestUsageIsObeyed(t *testing.T) {
	var found []string
	for _, c := range usage {
		err := used(c.before)
		if err == nil || !strings.Contains(err.Error(), c.finds) {
			t.Errorf("%q: %v, want %q", c.before, err, c.finds)
			continue
		}
		found = append(found, err.Error())
		for _, after := range c.after {
			if err := used(after); err != nil {
				t.Errorf("%q: after the remedy: %v", after, err)
			}
		}
	}
	texts := remedyTexts(t, "../settings/*.go", "../explain/*.go", "../../explain.go", "../../../../store/redisstore/url.go")
	if len(texts) < 25 {
		t.Errorf("only %d texts with a remedy; have the sources moved?", len(texts))
	}
	allObeyed(t, texts, found)
}

func used(text string) error {
	verb, args, _ := strings.Cut(text, " ")
	switch verb {
	case "explain":
		_, err := explain.Parse(strings.Fields(args), rules.SOCKS5)
		return err
	case "explain4":
		_, err := explain.Parse(strings.Fields(args), rules.SOCKS4)
		return err
	}
	_, _, err := settings.Load(settings.Environ(strings.Split(text, "\n")))
	return err
}
