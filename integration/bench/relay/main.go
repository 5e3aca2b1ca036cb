// Command relay measures what one session costs a proxy, side by side in one
// run:
//
//	usher   this source, with a limit of 100000 sessions and a log line for each
//	bare    about the least SOCKS proxy in Go, without UDP and users: see bare.go
//	danted  Dante, if it is installed (it wants to be started by root)
//
// CPU is user and system time of the proxy's processes, not of the load, and
// memory is their PSS, so that neither depends on how busy the load is. Proxies
// take turns within each round, each with new processes, and the medians over
// the rounds are printed with the ratio to danted's. On a machine that does
// other things, too, the ratios of one run are what to quote.
//
// With -before FILE, another usher binary takes the place of the other proxies:
// a pair to judge a change by.
package main

import (
	"flag"
	"fmt"
	"math"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"
)

// measurement is one line of the result: what it costs, by one of a unit.
type measurement struct {
	name string
	run  func(t *target, p *process) ([]float64, error)
	of   []string // what the values of run are
	by   []string // which proxies can do it; empty: all
}

const gib = 1 << 30

// The most sessions that are held take two descriptors each, here and in the
// proxy.
const (
	mostHeld    = 9750
	descriptors = 20000
)

var measurements = []measurement{
	{name: "setup1", of: []string{"us a session, 1 client"},
		run: perCPU(2000, 1e6, func(t *target, p *process, n int) error { return t.sessions(p, 1, n) })},
	{name: "setup", of: []string{"us a session, 64 clients"},
		run: perCPU(6000, 1e6, func(t *target, p *process, n int) error { return t.sessions(p, 64, n) })},
	{name: "login", of: []string{"us a session with a password, 64 clients"},
		run: perCPU(6000, 1e6, func(t *target, p *process, n int) error {
			return t.sessionsOf(p, 64, n, func(int) string { return user(0) })
		})},
	{name: "firstlogin", of: []string{"us a session with a new password, 64 clients"}, by: []string{"usher", "danted"},
		run: perCPU(firstLogins, 1e6, func(t *target, p *process, n int) error {
			return t.sessionsOf(p, 64, n, func(i int) string { return user(1 + i) })
		})},
	{name: "rr", of: []string{"us a round trip of 64 B, 64 sessions"},
		run: perCPU(60000, 1e6, func(t *target, p *process, n int) error { return t.roundTrips(p, 64, n) })},
	{name: "up1", of: []string{"CPU-s a GiB up, 1 stream"},
		run: perCPU(2*gib, gib, func(t *target, p *process, n int) error { return t.upload(p, 1, n) })},
	{name: "up16", of: []string{"CPU-s a GiB up, 16 streams"},
		run: perCPU(2*gib, gib, func(t *target, p *process, n int) error { return t.upload(p, 16, n) })},
	{name: "down1", of: []string{"CPU-s a GiB down, 1 stream"},
		run: perCPU(2*gib, gib, func(t *target, p *process, n int) error { return t.download(p, 1, n) })},
	{name: "down16", of: []string{"CPU-s a GiB down, 16 streams"},
		run: perCPU(2*gib, gib, func(t *target, p *process, n int) error { return t.download(p, 16, n) })},
	{name: "udp", of: []string{"us a UDP echo of 64 B, 16 associations"}, by: []string{"usher", "danted"},
		run: perCPU(30000, 1e6, func(t *target, p *process, n int) error { return t.datagrams(p, 16, n) })},
	{name: "idle", of: []string{"KiB PSS an idle session, fresh", "KiB PSS an idle session, used", "descriptors an idle session"},
		run: idle(500, 2000)},
	{name: "held", of: []string{"KiB PSS a session of 9750, fresh", "KiB PSS a session of 9750, used", "descriptors a session of 9750"}, by: []string{"usher"},
		run: idle(2000, mostHeld)},
}

func main() {
	bare := flag.String("bare", "", "address: be the bare proxy there")
	rounds := flag.Int("rounds", 5, "how often each is measured")
	flag.StringVar(&before, "before", "", "file: an usher of before a change, measured in place of the other proxies")
	only := flag.String("only", "", "which: "+strings.Join(names(), ",")+"; all if empty")
	flag.Parse()
	run := func() error { return measure(*rounds, *only) }
	if *bare != "" {
		run = func() error { return serveBare(*bare) }
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "relay:", err)
		os.Exit(1)
	}
}

func names() []string {
	var list []string
	for _, m := range measurements {
		list = append(list, m.name)
	}
	return list
}

func measure(rounds int, only string) error {
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
	values := map[string][]float64{} // by what and proxy, one a round
	for round := range rounds {
		for _, m := range measurements {
			if only != "" && !slices.Contains(strings.Split(only, ","), m.name) {
				continue
			}
			for i := range proxies {
				name := proxies[(round+i)%len(proxies)]
				if len(m.by) > 0 && name != "before" && !slices.Contains(m.by, name) {
					continue
				}
				got, err := measureOne(m, name, dir, t)
				if err != nil {
					return fmt.Errorf("%s, %s: %w", m.name, name, err)
				}
				for j, v := range got {
					values[m.of[j]+name] = append(values[m.of[j]+name], v)
				}
			}
		}
	}
	return show(values)
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
	if before != "" {
		proxies = []string{"usher", "before"}
	} else if _, err := exec.LookPath("danted"); err != nil {
		fmt.Fprintln(os.Stderr, "no danted here: without it")
		proxies = slices.DeleteFunc(proxies, func(p string) bool { return p == "danted" })
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

func measureOne(m measurement, name, dir string, t *target) ([]float64, error) {
	p, err := start(name, dir)
	if err != nil {
		return nil, err
	}
	defer p.stop()
	return m.run(t, p)
}

// perCPU measures the CPU time of n operations, in seconds for so many.
func perCPU(n int, many float64, load func(*target, *process, int) error) func(*target, *process) ([]float64, error) {
	return func(t *target, p *process) ([]float64, error) {
		if err := t.sessions(p, 64, 300); err != nil { // so that what is started on demand is there
			return nil, err
		}
		before, err := p.usage()
		if err != nil {
			return nil, err
		}
		if err := load(t, p, n); err != nil {
			return nil, err
		}
		after, err := p.usage()
		return []float64{(after.cpu - before.cpu).Seconds() / float64(n) * many}, err
	}
}

// idle measures memory and descriptors of sessions in which nothing moves,
// before they were used and after 16 KiB went each way. What one costs is the
// slope between two numbers of them, so that what the first ones pay for all,
// such as a heap that has room, is no part of it; danted has a process for
// every few. Nothing warms the proxy up: the memory of sessions that have ended
// would be there to be used again.
func idle(few, many int) func(*target, *process) ([]float64, error) {
	return func(t *target, p *process) ([]float64, error) { return hold(t, p, few, many) }
}

func hold(t *target, p *process, few, many int) ([]float64, error) {
	var held []*net.TCPConn
	defer func() {
		for _, c := range held {
			c.Close()
		}
	}()
	grow := func(n int) (usage, error) {
		for len(held) < n {
			c, err := t.dial(p, "", toEcho)
			if err != nil {
				return usage{}, err
			}
			held = append(held, c)
		}
		return settled(p)
	}
	before, err := grow(few)
	if err != nil {
		return nil, err
	}
	after, err := grow(many)
	if err != nil {
		return nil, err
	}
	for _, c := range held {
		if err := echo(c, 16<<10); err != nil {
			return nil, err
		}
	}
	used, err := settled(p)
	slope := func(after, before int) float64 { return float64(after-before) / float64(many-few) }
	fresh := slope(after.pss, before.pss)
	return []float64{fresh, fresh + float64(used.pss-after.pss)/float64(many), slope(after.fds, before.fds)}, err
}

// settled returns what the proxy holds when what ends late has ended.
func settled(p *process) (usage, error) {
	time.Sleep(time.Second)
	return p.usage()
}

func show(values map[string][]float64) error {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\t"+strings.Join(proxies, "\t")+"\tusher/"+strings.Join(proxies[1:], "\tusher/"))
	for _, m := range measurements {
		for _, of := range m.of {
			if len(values[of+"usher"]) == 0 {
				continue
			}
			fmt.Fprintf(w, "%s\t", of)
			for _, p := range proxies {
				fmt.Fprint(w, figure("%.3g", median(values[of+p])), "\t")
			}
			for _, p := range proxies[1:] {
				fmt.Fprint(w, figure("%.2fx", median(values[of+"usher"])/median(values[of+p])), "\t")
			}
			fmt.Fprintln(w)
		}
	}
	return w.Flush()
}

// figure is a number, or that there is none.
func figure(format string, v float64) string {
	if math.IsNaN(v) {
		return "-"
	}
	return fmt.Sprintf(format, v)
}

func median(values []float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}
