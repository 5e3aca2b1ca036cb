package redisstore_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"usher/store/redisstore"
	"usher/store/redisstore/redistest"
)

func writeSecret(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// If a password changes at the servers and in its file, the next connection uses the
// new one: to a server, to sentinels and to nodes of a cluster.
func TestPasswordRotates(t *testing.T) {
	dir := t.TempDir()
	user, password := filepath.Join(dir, "user"), filepath.Join(dir, "password")
	one := redistest.Start(t)
	group := redistest.StartSentinels(t)
	node := redistest.StartNode(t)
	servers := append([]*redistest.Server{one, group.Primary(), node}, group.Watch...)
	secrets := redisstore.Secrets{User: user, Password: password}
	both := secrets
	both.SentinelUser, both.SentinelPassword = user, password
	writeSecret(t, user, "rotating\n")
	writeSecret(t, password, "first\r\n")
	setUser(t, "rotating", []string{"on", ">first", "+@all", "~*", "&*"}, servers...)

	stores := map[string]*redisstore.Store{}
	for name, of := range map[string]struct {
		url     string
		secrets redisstore.Secrets
	}{"server": {one.URL(), secrets}, "sentinels": {group.URL(), both}, "cluster": {"redis+cluster://" + node.Addr, secrets}} {
		s, err := redisstore.Open(of.url, "rotate", of.secrets)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		stores[name] = s
	}
	all := func(want string) {
		t.Helper()
		for name, s := range stores {
			redistest.Eventually(t, time.Minute, name+" with "+want, func() bool {
				err := dial(t, s)
				return (err == nil) == (want == "") && (err == nil || strings.Contains(err.Error(), want))
			})
		}
	}
	all("")
	setUser(t, "rotating", []string{"on", ">second", "+@all", "~*", "&*"}, servers...)
	all("WRONGPASS")
	writeSecret(t, password, "second")
	all("")
}

func TestSecretFiles(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		writeSecret(t, path, text)
		return path
	}
	good, none := file("good", "geheim\n"), filepath.Join(dir, "none")
	for name, c := range map[string]struct {
		url     string
		secrets redisstore.Secrets
		want    string
	}{
		"good":           {"redis://a", redisstore.Secrets{User: good, Password: good}, ""},
		"missing":        {"redis://a", redisstore.Secrets{Password: none}, "no such file"},
		"empty":          {"redis://a", redisstore.Secrets{Password: file("empty", "\n")}, "does not hold a name or password"},
		"two lines":      {"redis://a", redisstore.Secrets{Password: file("two", "geheim\ngeheim")}, "does not hold"},
		"too long":       {"redis://a", redisstore.Secrets{Password: file("long", strings.Repeat("geheim", 1000))}, "does not hold"},
		"a folder":       {"redis://a", redisstore.Secrets{Password: dir}, "is a directory"},
		"both passwords": {"redis://:geheim@a", redisstore.Secrets{Password: good}, "remove one of them"},
		"both names":     {"redis://geheim@a", redisstore.Secrets{User: good}, "remove one of them"},
		"name in URL":    {"redis://u@a", redisstore.Secrets{Password: good}, ""},
		"no sentinels":   {"redis://a", redisstore.Secrets{SentinelPassword: good}, "write redis+sentinel://"},
		"sentinels":      {"redis+sentinel://:geheim@a/m", redisstore.Secrets{SentinelPassword: good}, ""},
	} {
		_, err := redisstore.Open(c.url, "default", c.secrets)
		switch {
		case (err == nil) != (c.want == ""), err != nil && !strings.Contains(err.Error(), c.want):
			t.Errorf("%s: %v, want %q", name, err, c.want)
		case err != nil && strings.Contains(err.Error(), "geheim"):
			t.Errorf("%s: the error shows the password: %v", name, err)
		}
	}
}

// There is a warning about files with secrets that every user may read, and about any
// file that every user may write.
func TestExposedFiles(t *testing.T) {
	dir := t.TempDir()
	tls := redistest.NewCertificates(t)
	secrets := redisstore.Secrets{}
	for name, to := range map[string]*string{
		"user": &secrets.User, "password": &secrets.Password, "sentinel-user": &secrets.SentinelUser, "sentinel-password": &secrets.SentinelPassword,
	} {
		*to = filepath.Join(dir, name)
		writeSecret(t, *to, "geheim")
	}
	const read, write = "may read", "may write"
	for file, modes := range map[string]map[os.FileMode]string{
		secrets.Password:         {0o600: "", 0o640: "", 0o644: read, 0o604: read, 0o602: write, 0o666: write},
		secrets.SentinelPassword: {0o600: "", 0o644: read, 0o606: write},
		tls.Key:                  {0o600: "", 0o644: read, 0o602: write},
		secrets.User:             {0o644: "", 0o646: write},
		secrets.SentinelUser:     {0o644: "", 0o646: write},
		tls.Cert:                 {0o644: "", 0o646: write},
		tls.CA:                   {0o644: "", 0o646: write},
	} {
		for mode, want := range modes {
			if err := os.Chmod(file, mode); err != nil {
				t.Fatal(err)
			}
			s, err := redisstore.Open("rediss+sentinel://a/m?ca="+tls.CA+"&cert="+tls.Cert+"&key="+tls.Key, "default", secrets)
			if err != nil {
				t.Fatal(err)
			}
			got := strings.Join(s.Warnings(), "\n")
			if (got == "") != (want == "") || !strings.Contains(got, want) || want != "" && !strings.Contains(got, file+" (mode ") {
				t.Errorf("%s, mode %04o: %q, want %q", filepath.Base(file), mode, got, want)
			}
		}
		if err := os.Chmod(file, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestInsecureConnections(t *testing.T) {
	file := filepath.Join(t.TempDir(), "password")
	writeSecret(t, file, "geheim")
	for url, want := range map[string]string{
		"redis://:geheim@redis.internal":                   "goes to redis.internal unencrypted",
		"redis+cluster://:geheim@127.0.0.1,10.0.0.1":       "goes to 10.0.0.1 unencrypted",
		"redis+sentinel://10.0.0.1/m?sentinel_password=x":  "goes to 10.0.0.1 unencrypted",
		"redis://redis.internal":                           "",
		"redis://:geheim@127.0.0.1":                        "",
		"redis://:geheim@[::1]":                            "",
		"redis://:geheim@localhost":                        "",
		"unix://:geheim@/run/redis":                        "",
		"rediss://:geheim@redis.internal":                  "",
		"rediss://:geheim@redis.internal?skip_verify=true": "skip_verify=true accepts any server",
		"rediss+cluster://127.0.0.1?skip_verify=1":         "skip_verify=true accepts any server",
		"FILE redis://redis.internal":                      "goes to redis.internal unencrypted",
	} {
		var secrets redisstore.Secrets
		url, fromFile := strings.CutPrefix(url, "FILE ")
		if fromFile {
			secrets.Password = file
		}
		s, err := redisstore.Open(url, "default", secrets)
		if err != nil {
			t.Fatal(err)
		}
		got := strings.Join(s.Warnings(), "\n")
		if (got == "") != (want == "") || !strings.Contains(got, want) || strings.Contains(got, "geheim") {
			t.Errorf("%s: %q, want %q", url, got, want)
		}
	}
}
