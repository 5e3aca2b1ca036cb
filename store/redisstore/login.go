package redisstore

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
)

// Secrets names files that hold a name or a password, one line each, in place of
// those in the URL. They are read for each connection, so that they may change
// while a process runs. "" is no file.
type Secrets struct {
	User, Password                 string // of the Redis servers
	SentinelUser, SentinelPassword string
}

// login has a name and a password. It is empty if the server needs none.
type login struct {
	user, password         string
	userFile, passwordFile string
}

// read returns name and password as they are now.
func (l login) read() (user, password string, err error) {
	if user, err = secret(l.user, l.userFile); err != nil {
		return "", "", err
	}
	password, err = secret(l.password, l.passwordFile)
	return user, password, err
}

// secret returns what the file holds, or the value if there is none. Errors
// never quote a secret.
func secret(value, file string) (string, error) {
	if file == "" {
		return value, nil
	}
	f, err := os.Open(file)
	if err != nil {
		return "", fmt.Errorf("a file with a name or password of the store: %w", err)
	}
	defer f.Close()
	const most = 4096
	text, err := io.ReadAll(io.LimitReader(f, most+1))
	switch line := strings.TrimRight(string(text), "\r\n"); {
	case err != nil:
		return "", fmt.Errorf("a file with a name or password of the store: %w", err)
	case line == "" || len(text) > most || strings.ContainsAny(line, "\r\n\x00"):
		return "", fmt.Errorf("%s does not hold a name or password; write it on one line of at most %d bytes", file, most)
	default:
		return line, nil
	}
}

// use sets the files. Each of them must be readable now.
func (l *location) use(files Secrets) error {
	servers, sentinels := login{userFile: files.User, passwordFile: files.Password},
		login{userFile: files.SentinelUser, passwordFile: files.SentinelPassword}
	if sentinels != (login{}) && l.form.kind != behindSentinels {
		return errors.New("a file for the login at sentinels, but the URL is not of that kind; write redis+sentinel://")
	}
	for _, f := range []struct {
		of    *login
		files login
	}{{&l.login, servers}, {&l.sentinel, sentinels}} {
		if f.files.userFile != "" && f.of.user != "" || f.files.passwordFile != "" && f.of.password != "" {
			return errors.New("a name or password is in the URL, and a file is named for it; remove one of them")
		}
		f.of.userFile, f.of.passwordFile = f.files.userFile, f.files.passwordFile
		if _, _, err := f.of.read(); err != nil {
			return err
		}
	}
	return nil
}

// Warnings returns what makes connections to the store insecure, one sentence each.
// Unlike Check it does not connect.
func (s *Store) Warnings() (warnings []string) {
	l := s.location
	for _, f := range []struct {
		file, kind string
		secret     bool
	}{
		{l.login.passwordFile, "the password file of the store", true},
		{l.login.userFile, "the user file of the store", false},
		{l.sentinel.passwordFile, "the password file of the sentinels", true},
		{l.sentinel.userFile, "the user file of the sentinels", false},
		{l.files.key, "the key file of the store", true},
		{l.files.cert, "the certificate file of the store", false},
		{l.files.ca, "the file of the store's certificate authorities", false},
	} {
		if w := exposed(f.file, f.kind, f.secret); w != "" {
			warnings = append(warnings, w)
		}
	}
	if l.files.skipVerify {
		warnings = append(warnings, "skip_verify=true accepts any server as the store, also one that somebody put in between; "+
			"name the authority with ca instead")
	}
	secret := l.login.password + l.login.passwordFile + l.sentinel.password + l.sentinel.passwordFile
	if secret == "" || l.form.tls || l.scheme == "unix" {
		return warnings
	}
	for _, h := range l.hosts {
		if host, _, _ := net.SplitHostPort(h); !thisMachine(host) {
			return append(warnings, "the password of the store goes to "+host+" unencrypted; write rediss instead of redis")
		}
	}
	return warnings
}

// exposed returns a warning if every user of the machine may write a file, or read one
// that holds a secret. Otherwise it returns "". If the file cannot be read, that fails
// elsewhere.
func exposed(file, kind string, secret bool) string {
	info, err := os.Stat(file)
	if err != nil {
		return ""
	}
	may := "read"
	switch mode := info.Mode(); {
	case mode&0o002 != 0:
		may = "write"
	case mode&0o004 == 0 || !secret:
		return ""
	}
	return fmt.Sprintf("every user of this machine may %s %s, %s (mode %04o); run chmod 600, or 640 with a group of Usher's own",
		may, kind, file, info.Mode().Perm())
}

func thisMachine(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.Unmap().IsLoopback()
}
