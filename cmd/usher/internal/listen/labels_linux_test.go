package listen

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"syscall"
	"testing"

	"usher/deploy/need"
)

// TestLabels gives the loopback interface of a network namespace of its own
// addresses with labels, and asks as a rule file does.
func TestLabels(t *testing.T) {
	ip := need.Program(t, "ip")
	runtime.LockOSThread() // for good: the thread ends with the test's goroutine
	if err := syscall.Unshare(syscall.CLONE_NEWNET); errors.Is(err, os.ErrPermission) {
		need.Missing(t, "a network namespace")
	} else if err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"link", "set", "lo", "up"},
		{"addr", "add", "192.0.2.1/32", "dev", "lo", "label", "lo:1"},
		{"addr", "add", "192.0.2.2/32", "dev", "lo", "label", "lo:1"},
		{"addr", "add", "192.0.2.3/32", "dev", "lo"},
		{"addr", "add", "192.0.2.4", "peer", "192.0.2.5", "dev", "lo"},
		{"addr", "add", "2001:db8::1/128", "dev", "lo", "nodad"},
	} {
		if out, err := exec.Command(ip, args...).CombinedOutput(); err != nil {
			t.Fatalf("ip %q: %v: %s", args, err, out)
		}
	}
	for name, want := range map[string]string{
		"lo:1": "[192.0.2.1 192.0.2.2] true",
		"lo":   "[127.0.0.1 192.0.2.3 192.0.2.4 ::1 2001:db8::1] true",
		"lo:2": "[] false",
		"eth9": "[] false",
	} {
		addrs, ok := InterfaceAddrs(name)
		slices.SortFunc(addrs, netip.Addr.Compare)
		if got := fmt.Sprint(addrs, ok); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}

// TestInterfaceAddrsAreThoseOfTheSystem holds that no address is given that the
// package net does not know of this machine.
func TestInterfaceAddrsAreThoseOfTheSystem(t *testing.T) {
	interfaces, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range interfaces {
		list, err := i.Addrs()
		if err != nil {
			t.Fatal(err)
		}
		var all []string
		for _, a := range list {
			prefix, err := netip.ParsePrefix(a.String())
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, prefix.Addr().String())
		}
		addrs, ok := InterfaceAddrs(i.Name)
		if !ok {
			t.Errorf("%s is not found", i.Name)
		}
		for _, a := range addrs {
			if !slices.Contains(all, a.String()) {
				t.Errorf("%s: %s is not among %v", i.Name, a, all)
			}
		}
	}
}
