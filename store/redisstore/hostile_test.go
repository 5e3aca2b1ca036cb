package redisstore_test

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"usher/store"
	"usher/store/redisstore/redistest"
)

// Lengths that make the client library panic or use up the memory if they reach it.
var hostileLengths = []string{
	"$4611686018427387904\r\n", "!4611686018427387904\r\n", "=4611686018427387904\r\n",
	"*4611686018427387904\r\n", "%4611686018427387904\r\n", "~4611686018427387904\r\n", ">4611686018427387904\r\n",
	"*2000000000\r\n", "$100000000000\r\n",
}

// If a server announces more than a reply may have, this counts as a failure of the
// store.
func TestHostileServer(t *testing.T) {
	files := redistest.NewCertificates(t)
	pair, err := tls.LoadX509KeyPair(files.Cert, files.Key)
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(t.TempDir(), "s")
	unix, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	plain, node, sentinel := redistest.Loopback(t), redistest.Loopback(t), redistest.Loopback(t)
	encrypted := redistest.Loopback(t)
	for name, at := range map[string]struct {
		listener net.Listener
		url      string
		commands []string
	}{
		"tcp":      {plain, "redis://" + plain.Addr().String(), []string{"HELLO", "INFO", "EVALSHA", "HGETALL", "SCRIPT"}},
		"unix":     {unix, "unix://" + socket, []string{"HELLO", "INFO", "EVALSHA"}},
		"tls":      {tls.NewListener(encrypted, &tls.Config{Certificates: []tls.Certificate{pair}}), "rediss://" + encrypted.Addr().String() + "?ca=" + files.CA, []string{"INFO", "EVALSHA"}},
		"cluster":  {node, "redis+cluster://" + node.Addr().String(), []string{"CLUSTER"}},
		"sentinel": {sentinel, "redis+sentinel://" + sentinel.Addr().String() + "/m", []string{"SENTINEL"}},
	} {
		var attack atomic.Pointer[[2]string] // which command is answered by what
		redistest.Fake(t, at.listener, func(command []string) string {
			now := attack.Load()
			switch word := strings.ToUpper(command[0]); {
			case word == now[0]:
				return now[1]
			case word == "EVALSHA" && now[0] == "SCRIPT":
				return "-NOSCRIPT no such script\r\n"
			}
			return redistest.Ordinary(command)
		})
		for _, bad := range at.commands {
			for _, length := range hostileLengths {
				attack.Store(&[2]string{bad, length})
				err := useOnce(t, at.url)
				if err == nil || !strings.Contains(err.Error(), "protocol: reply exceeds 1048576 bytes") {
					t.Errorf("%s, %s answered by %q: %v", name, bad, length, err)
				}
			}
		}
	}
}

// useOnce dials, joins and observes.
func useOnce(t *testing.T, url string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	s := open(t, url, "hostile")
	defer s.Close()
	c, err := s.Dial(ctx, 0)
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Observe(ctx, nil)
	if err != nil && strings.Contains(err.Error(), "protocol") {
		return err
	}
	_, err = c.Join(ctx, store.Join{Replica: "h", Candidate: "b", Stream: 1})
	return err
}

// People see a server's texts as one short line of printable text.
func TestTextsOfTheServerAreOneLine(t *testing.T) {
	const words = "ERR \x1b[31mred\x07 \u202egnp.exe \u200b\x7f\u0085"
	const want = `ERR \x1b[31mred\a \u202egnp.exe \u200b\x7f\u0085`
	for _, reply := range []string{
		"-" + words + "\r\n", "-" + words + strings.Repeat("x", 60000) + "\r\n",
		"!3000\r\n" + words + strings.Repeat("\n", 3000-len(words)) + "\r\n",
		"*1\r\n" + redistest.Bulk(words+strings.Repeat("y", 5000)),
	} {
		l := redistest.Loopback(t)
		redistest.Fake(t, l, func(command []string) string {
			if strings.EqualFold(command[0], "EVALSHA") {
				return reply
			}
			return redistest.Ordinary(command)
		})
		s := open(t, "redis://"+l.Addr().String(), "words")
		c, err := s.Dial(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.Join(t.Context(), store.Join{Replica: "h", Candidate: "b", Stream: 1})
		errs := []error{err}
		_, err = c.Expire(t.Context(), store.Expire{Target: "h"})
		errs = append(errs, err)
		if err := errors.Join(c.Close(), s.Close()); err != nil {
			t.Error(err)
		}
		for _, err := range errs {
			text := err.Error()
			if strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r > '~' }) || len(text) > 600 {
				t.Errorf("%d bytes: %q", len(text), text)
			}
			if !strings.Contains(text, `red`) || strings.HasPrefix(reply, "-") && !strings.Contains(text, want) {
				t.Errorf("%q, want %s", text, want)
			}
		}
	}
}
