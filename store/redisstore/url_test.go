package redisstore_test

import (
	"strings"
	"testing"

	"usher/store/redisstore"
	"usher/store/redisstore/redistest"
)

func TestAddress(t *testing.T) {
	for _, c := range []struct {
		url, want string
		shards    int
	}{
		{"redis://redis", "redis://redis:6379", 1},
		{" redis://u:geheim@redis:6380/1?client_name=x ", "redis://redis:6380/1", 1},
		{"rediss://:gehe%2Fim@[::1]:6379/0?shards=4", "rediss://[::1]:6379/0", 4},
		{"unix://:geheim@/run/redis.sock?db=2", "unix:///run/redis.sock", 1},
		{"redis+sentinel://u:geheim@a,b:1,c/main/3?sentinel_password=geheim", "redis+sentinel://a:26379,b:1,c:26379/main/3", 1},
		{"rediss+sentinel://a/main", "rediss+sentinel://a:26379/main", 1},
		{"redis+cluster://u:geheim@a,b:1", "redis+cluster://a:6379,b:1", 16},
		{"redis+cluster://a/?shards=3", "redis+cluster://a:6379/", 3},
	} {
		if got, err := redisstore.Address(c.url); err != nil || got != c.want {
			t.Errorf("%s is shown as %q, %v; want %q", c.url, got, err, c.want)
		}
		s := open(t, c.url, "default")
		if s.Shards() != c.shards {
			t.Errorf("%s: %d shards, want %d", c.url, s.Shards(), c.shards)
		}
		s.Close()
	}
}

func TestBadURLs(t *testing.T) {
	for url, want := range map[string]string{
		"geheim":                                 "not a URL",
		"monica:geheim@redis:6379":               "not a URL",
		"redis:geheim":                           "the URL has no host; write redis://host:port/db",
		"etcd://geheim@host":                     `unknown kind of store "etcd"`,
		"redis://:ge%heim@host":                  "not a URL",
		"redis://:ge/heim@host":                  "@ after the host",
		"redis://:ge?heim@host/0":                "@ after the host",
		"redis://:ge#heim@host/0":                "not a URL",
		"redis://host:geheim":                    "a host of the URL is malformed",
		"redis://":                               "has no host",
		"redis://a,b":                            "several hosts",
		"redis://a,":                             "a host of the URL is malformed",
		"redis://a/geheim":                       "the path of the URL is malformed",
		"redis://a/0/1":                          "the path of the URL is malformed",
		"redis://a?geheim=1":                     "unknown option",
		"redis://a?db=geheim":                    "option db of the URL has a wrong value: write a number",
		"redis://a?shards=0":                     "write a number from 1 to 1024",
		"redis://a?ca=/x":                        "write rediss instead of redis",
		"rediss://a?cert=/x":                     "go together",
		"redis://a?sentinel_password=geheim":     "write redis+sentinel://",
		"unix://host/path":                       "a unix socket has no host",
		"unix://":                                "the path of the URL is malformed",
		"redis+sentinel://a,b":                   "lacks the name",
		"redis+sentinel://a/main/geheim":         "the path of the URL is malformed",
		"redis+cluster://a/1":                    "the path of the URL is malformed",
		"redis+cluster://a?db=1":                 "database 0 only",
		"rediss://u:geheim@a?ca=/does/not/exist": "option ca: open /does/not/exist",
	} {
		_, err := redisstore.Open(url, "default", redisstore.Secrets{})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %s", url, err, want)
		}
		if err != nil && (strings.Contains(err.Error(), "geheim") || strings.Contains(err.Error(), "heim")) {
			t.Errorf("%s: the error shows the password: %v", url, err)
		}
	}
}

// TestLoginErrors: errors show the answer of a server or the network, and not the
// password.
func TestLoginErrors(t *testing.T) {
	server := redistest.Start(t, "--requirepass", "right")
	for url, want := range map[string]string{
		"redis://:geheim@" + server.Addr:            "WRONGPASS",
		"redis://monica:geheim@" + server.Addr:      "WRONGPASS",
		"redis://" + server.Addr:                    "NOAUTH",
		"redis://:geheim@127.0.0.1:1":               "refused",
		"redis+sentinel://:geheim@127.0.0.1:1/x":    "no sentinel gave the address of the primary",
		"redis+cluster://:geheim@127.0.0.1:1":       "no node of the cluster knows",
		"redis+cluster://:right@" + server.Addr:     "cluster support disabled",
		"redis+sentinel://" + server.Addr + "/main": "unknown command 'SENTINEL'",
	} {
		err := reach(t, url)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "geheim") {
			t.Errorf("%s: %v, want %s", url, err, want)
		}
	}
}
