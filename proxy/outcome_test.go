package proxy

import (
	"errors"
	"fmt"
	"net"
	"os"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"usher/proxy/record"
	"usher/proxy/socks"
)

// TestReasonsAreDocumented holds the table of docs/observability.md, and the words of
// package record, to outcomes.
func TestReasonsAreDocumented(t *testing.T) {
	doc, err := os.ReadFile("../docs/observability.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(doc), "\n| reason | |\n|---|---|\n")
	table, _, _ = strings.Cut(table, "\n\n")
	documented := map[string]bool{}
	for line := range strings.Lines(table) {
		cell, _, _ := strings.Cut(strings.TrimPrefix(line, "|"), "|")
		for _, name := range regexp.MustCompile("`([a-z_]+)`").FindAllStringSubmatch(cell, -1) {
			documented[name[1]] = true
		}
	}
	reasons := map[string]bool{outcomeOf(nil).reason: true, outcomeOf(errors.New("something else")).reason: true}
	for _, o := range outcomes {
		reasons[o.reason] = true
	}
	for reason := range reasons {
		if !documented[reason] {
			t.Errorf("docs/observability.md does not explain %s", reason)
		}
		if _, ok := record.Explain(reason); !ok {
			t.Errorf("package record does not explain %s", reason)
		}
		delete(documented, reason)
	}
	for reason := range documented {
		t.Errorf("docs/observability.md has the reason %s, with which no session ends", reason)
	}
}

// TestRepliesAreDocumented holds the table of replies in docs/observability.md
// to outcomes.
func TestRepliesAreDocumented(t *testing.T) {
	doc, err := os.ReadFile("../docs/observability.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(doc), "\n| reply | reasons |\n|---|---|\n")
	table, _, _ = strings.Cut(table, "\n\n")
	type answer struct {
		code   int
		reason string
	}
	documented := map[answer]bool{}
	for line := range strings.Lines(table) {
		var code int
		if _, err := fmt.Sscanf(line, "| %d,", &code); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		for _, name := range regexp.MustCompile("`([a-z_]+)`").FindAllStringSubmatch(line, -1) {
			documented[answer{code, name[1]}] = true
		}
	}
	given := map[answer]bool{}
	for _, o := range append(outcomes, outcomeOf(errors.New("something else"))) {
		if o.code != silent {
			given[answer{int(o.code), o.reason}] = true
		}
	}
	for a := range given {
		if !documented[a] {
			t.Errorf("docs/observability.md does not say that the reply for %s is %d", a.reason, a.code)
		}
		delete(documented, a)
	}
	for a := range documented {
		t.Errorf("docs/observability.md says that the reply for %s is %d, but no error has this reply", a.reason, a.code)
	}
}

// Each error of the system that connecting may bring has its reply and reason.
func TestErrorsOfConnecting(t *testing.T) {
	for _, c := range []struct {
		errno  syscall.Errno
		code   socks.Code
		reason string
	}{
		{syscall.EADDRNOTAVAIL, socks.NetworkUnreachable, "net_unreachable"},
		{syscall.EADDRINUSE, socks.GeneralFailure, "local_ports"},
		{syscall.EAGAIN, socks.GeneralFailure, "memory"},
		{syscall.ENOBUFS, socks.GeneralFailure, "memory"},
		{syscall.ENOMEM, socks.GeneralFailure, "memory"},
		{syscall.EMFILE, socks.GeneralFailure, "descriptors"},
		{syscall.ENFILE, socks.GeneralFailure, "descriptors"},
		{syscall.EACCES, socks.NotAllowed, "denied_by_host"},
		{syscall.EPERM, socks.NotAllowed, "denied_by_host"},
		{syscall.EHOSTUNREACH, socks.HostUnreachable, "host_unreachable"},
		{syscall.EHOSTDOWN, socks.HostUnreachable, "host_unreachable"},
		{syscall.EPROTO, socks.HostUnreachable, "host_unreachable"},
		{syscall.ENOPROTOOPT, socks.HostUnreachable, "host_unreachable"},
		{syscall.EOPNOTSUPP, socks.HostUnreachable, "host_unreachable"},
		{syscall.ENETUNREACH, socks.NetworkUnreachable, "net_unreachable"},
		{syscall.ENETDOWN, socks.NetworkUnreachable, "net_unreachable"},
		{syscall.EINVAL, socks.NetworkUnreachable, "net_unreachable"},
		{syscall.ETIMEDOUT, socks.TTLExpired, "connect_timeout"},
		{syscall.ECONNREFUSED, socks.ConnectionRefused, "refused"},
		{syscall.ECONNRESET, socks.ConnectionRefused, "refused"},
		{syscall.ECONNABORTED, socks.ConnectionRefused, "refused"},
		{syscall.EAFNOSUPPORT, socks.AddressNotSupported, "no_family"},
		{syscall.EIO, socks.GeneralFailure, "error"},
	} {
		err := &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", c.errno)}
		if o := outcomeOf(err); o.code != c.code || o.reason != c.reason {
			t.Errorf("%v: %d %s, want %d %s", err, o.code, o.reason, c.code, c.reason)
		}
	}
}
