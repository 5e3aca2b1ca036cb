// Command relay measures what one session costs a proxy, side by side in one run:
//
//	usher       this source, with a limit of 100000 sessions and a log line for each
//	bare        about the least SOCKS proxy in Go, without UDP and users: see bare.go
//	danted      Dante (it wants to be started by root)
//	microsocks  a small SOCKS proxy in C, with a thread for each session
//	haproxy     HAProxy, which forwards to the target without SOCKS, and splices
//	direct      no proxy
//	accounting  usher with USHER_ACCOUNTING; only if -peers names it
//
// Those that are not installed are left out. CPU is user and system time of the proxy's
// processes, not of the load, and memory is their PSS, so that neither depends on how
// busy the load is. Elapsed times do. Proxies take turns within each round, each with new
// processes. The result is Markdown: medians over the rounds, the ratio of Usher to each
// of the others within a round, and the range of both. On a machine that does other
// things, too, the ratios of one run are what to quote.
//
// With -plots DIR, it also measures CPU against the number of clients and sessions, and
// draws it into DIR as SVG.
//
// With -before FILE, another usher binary takes the place of the other proxies: a pair to
// judge a change by.
package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

func main() {
	bare := flag.String("bare", "", "address: be the bare proxy there")
	rounds := flag.Int("rounds", 5, "how often each is measured")
	before := flag.String("before", "", "file: an usher of before a change, measured in place of the other proxies")
	only := flag.String("only", "", "which: "+strings.Join(names(), ",")+"; all if empty")
	beside := flag.String("peers", "", "which peers beside usher: "+strings.Join(peerNames()[1:], ",")+"; all that are installed if empty")
	plots := flag.String("plots", "", "folder: draw CPU against clients and sessions into it")
	flag.Parse()
	run := func() error {
		choose(list(*beside), *before)
		return measure(*rounds, list(*only), *plots)
	}
	if *bare != "" {
		run = func() error { return serveBare(*bare) }
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "relay:", err)
		os.Exit(1)
	}
}

// list returns the parts of a list with commas.
func list(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(s, ",")
}

func names() (list []string) {
	for _, m := range measurements {
		list = append(list, m.name)
	}
	return list
}

func peerNames() (list []string) {
	for _, p := range peers {
		list = append(list, p.name)
	}
	return list
}

func measure(rounds int, only []string, plots string) error {
	dir, err := os.MkdirTemp("", "relay")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := prepare(dir); err != nil {
		return err
	}
	t, err := startTarget()
	if err != nil {
		return err
	}
	r := results{}
	for round := range rounds {
		for _, m := range measurements {
			if len(only) > 0 && !slices.Contains(only, m.name) {
				continue
			}
			if err := r.measure(m, round, dir, t); err != nil {
				return err
			}
		}
	}
	r.print(os.Stdout, measurements)
	if plots == "" {
		return nil
	}
	return draw(rounds, plots, dir, t)
}

// measure measures all peers that can do it. In each round another one begins.
func (r results) measure(m measurement, round int, dir string, t *target) error {
	for i := range peers {
		p := peers[(round+i)%len(peers)]
		if m.needs != "" && p.name != "before" && !slices.Contains(p.can, m.needs) {
			continue
		}
		got, err := measureOne(m, p, dir, t)
		if err != nil {
			return fmt.Errorf("%s, %s: %w", m.name, p.name, err)
		}
		for j, v := range got {
			key := of{m.of[j], p.name}
			r[key] = append(r[key], v)
		}
	}
	return nil
}

func measureOne(m measurement, by *peer, dir string, t *target) ([]float64, error) {
	p, err := start(by, dir, t)
	if err != nil {
		return nil, err
	}
	defer p.stop()
	return m.run(t, p)
}

// prepare builds what is measured, and leaves out what this machine cannot do.
func prepare(dir string) error {
	module, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "usher").Output()
	if err != nil {
		return fmt.Errorf("looking for the sources of usher: %w", err)
	}
	build := exec.Command("go", "build", "-o", filepath.Join(dir, "usher"), "./cmd/usher")
	build.Dir, build.Stderr = strings.TrimSpace(string(module)), os.Stderr
	if err := build.Run(); err != nil {
		return fmt.Errorf("building usher: %w", err)
	}
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		return err
	}
	if files.Cur < descriptors {
		fmt.Fprintln(os.Stderr, "fewer than", descriptors, "descriptors (ulimit -Hn): without", mostHeld, "sessions")
		measurements = slices.DeleteFunc(measurements, func(m measurement) bool { return m.name == "held" })
	}
	return writeUsers(dir)
}
