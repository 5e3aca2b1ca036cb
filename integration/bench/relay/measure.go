package main

import (
	"net"
	"time"
)

// measurement is what one operation costs.
type measurement struct {
	name  string
	run   func(t *target, p *process) ([]float64, error)
	of    []string // what the values of run are
	needs string   // what a peer must be able to do; "": nothing but CONNECT
}

const gib = 1 << 30

// The most sessions that are held take two descriptors each, here and in the
// proxy.
const (
	mostHeld    = 9750
	descriptors = 20000
)

var measurements = []measurement{
	{name: "setup1", of: timed("set-up and end of a session, 1 client", "µs"),
		run: perOne(2000, 1e6, func(t *target, p *process, n int) error { return t.sessions(p, 1, n) })},
	{name: "setup", of: timed("the same, 64 clients", "µs"),
		run: perOne(6000, 1e6, func(t *target, p *process, n int) error { return t.sessions(p, 64, n) })},
	{name: "login", needs: logins, of: timed("the same with one user's password", "µs"),
		run: perOne(6000, 1e6, func(t *target, p *process, n int) error {
			return t.sessionsOf(p, 64, n, func(int) string { return user(0) })
		})},
	{name: "firstlogin", needs: anyLogins, of: timed("the same with passwords of users not seen before", "µs"),
		run: perOne(firstLogins, 1e6, func(t *target, p *process, n int) error {
			return t.sessionsOf(p, 64, n, func(i int) string { return user(1 + i) })
		})},
	{name: "rr", of: timed("round trip of 64 bytes, 64 sessions", "µs"),
		run: perOne(60000, 1e6, func(t *target, p *process, n int) error { return t.roundTrips(p, 64, n) })},
	{name: "up1", of: timed("GiB up, 1 stream", "s"),
		run: perOne(2*gib, gib, func(t *target, p *process, n int) error { return t.upload(p, 1, n) })},
	{name: "up16", of: timed("GiB up, 16 streams", "s"),
		run: perOne(2*gib, gib, func(t *target, p *process, n int) error { return t.upload(p, 16, n) })},
	{name: "down1", of: timed("GiB down, 1 stream", "s"),
		run: perOne(2*gib, gib, func(t *target, p *process, n int) error { return t.download(p, 1, n) })},
	{name: "down16", of: timed("GiB down, 16 streams", "s"),
		run: perOne(2*gib, gib, func(t *target, p *process, n int) error { return t.download(p, 16, n) })},
	{name: "udp", needs: datagrams, of: timed("UDP datagram of 64 bytes and its echo, 16 associations", "µs"),
		run: perOne(30000, 1e6, func(t *target, p *process, n int) error { return t.datagrams(p, 16, 64, n) })},
	{name: "udp1200", needs: datagrams, of: timed("UDP datagram of 1200 bytes and its echo, 16 associations", "µs"),
		run: perOne(30000, 1e6, func(t *target, p *process, n int) error { return t.datagrams(p, 16, 1200, n) })},
	{name: "idle", needs: ownProcess, of: []string{"idle session: KiB", "the same after 16 KiB each way: KiB", "descriptors of an idle session"},
		run: idle(500, 2000)},
	{name: "held", needs: manyHeld, of: []string{"idle session, 9750 held: KiB", "the same after 16 KiB each way, 9750 held: KiB", "descriptors of an idle session, 9750 held"},
		run: idle(2000, mostHeld)},
}

// elapsed ends the names of what a busy machine prolongs.
const elapsed = ": elapsed "

// timed returns what perOne measures of an operation.
func timed(what, unit string) []string {
	return []string{what + ": CPU " + unit, what + elapsed + unit}
}

// perOne measures the CPU time of n operations and the time that they take, in seconds
// for so many.
func perOne(n int, many float64, load func(*target, *process, int) error) func(*target, *process) ([]float64, error) {
	return func(t *target, p *process) ([]float64, error) {
		if err := t.sessions(p, 64, 300); err != nil { // so that what is started on demand is there
			return nil, err
		}
		before, err := p.usage()
		if err != nil {
			return nil, err
		}
		began := time.Now()
		if err := load(t, p, n); err != nil {
			return nil, err
		}
		took := time.Since(began)
		after, err := p.usage()
		per := func(d time.Duration) float64 { return d.Seconds() / float64(n) * many }
		return []float64{per(after.cpu - before.cpu), per(took)}, err
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
