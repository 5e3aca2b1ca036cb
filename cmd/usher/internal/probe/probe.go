// Package probe proves that a SOCKS server forwards. It opens sessions through the
// server to a listener of its own, sends random bytes each way and compares them.
package probe

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"usher/proxy/socks"
)

// MaxCount is the largest number of sessions of one probe.
const MaxCount = 1000

// Options say what to probe, and how.
type Options struct {
	Server   string        // HOST:PORT of the SOCKS server
	Version  socks.Version // 4 or 5
	Names    bool          // SOCKS 4a: requests carry names, not addresses
	Command  socks.Command
	User     string        // "": no login. SOCKS 4 sends it as the user id
	Password string        // SOCKS 5 only
	Target   *socks.Addr   // nil: a listener of the probe. CONNECT only
	Expect   string        // text in what Target sends first; "": connected is enough
	Bind     netip.Addr    // where the listener is; zero: the local address of the connection to Server
	Count    int           // sessions open at a time, 1 to MaxCount
	Timeout  time.Duration // for all of it
}

// Kind is the stage at which a server failed.
type Kind string

// Kinds of failures.
const (
	Unreachable Kind = "not reachable"
	Greeting    Kind = "greeting"
	Method      Kind = "method"
	Password    Kind = "password"
	Refused     Kind = "refused"
	Nothing     Kind = "nothing came through"
	Timeout     Kind = "timeout"
)

// failure is why a session failed.
type failure struct {
	kind   Kind
	detail string
}

func (f *failure) String() string { return string(f.kind) + ": " + f.detail }

// Step is one stage of a session.
type Step struct {
	Name    string  `json:"step"`
	Seconds float64 `json:"seconds"`
	Error   string  `json:"error,omitempty"`
}

// Result is what a probe found. Up is true if all sessions forwarded.
type Result struct {
	Up       bool     `json:"up"`
	Server   string   `json:"server"`
	Seconds  float64  `json:"seconds"`
	Failed   Kind     `json:"failed,omitempty"`
	Reason   string   `json:"reason,omitempty"`
	Sessions [][]Step `json:"sessions"`
}

// Run probes once. All that it opened is closed when it returns. The error says
// that the probe itself cannot run, such as for an address in Bind that this
// machine does not have.
func Run(ctx context.Context, o Options) (Result, error) {
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	sessions, err := run(ctx, o)
	if err != nil {
		return Result{}, err
	}
	return summary(o.Server, sessions, time.Since(began)), nil
}

// run opens all sessions and closes them when each has succeeded or failed, so
// that they are open at the same time.
func run(ctx context.Context, o Options) ([]*session, error) {
	sessions := make([]*session, o.Count)
	for i := range sessions {
		sessions[i] = &session{Options: o, ping: nonce(), pong: nonce()}
		defer sessions[i].close()
	}
	first := sessions[0]
	first.reach(ctx, o.Server)
	if first.failure != nil {
		return sessions[:1], nil // the others would fail as well
	}
	answer, err := open(ctx, o, first.local().Addr(), sessions)
	if err != nil {
		return nil, err
	}
	defer answer.close()
	var running sync.WaitGroup
	for i, s := range sessions {
		running.Go(func() {
			if i > 0 {
				s.reach(ctx, first.conn.RemoteAddr().String())
			}
			s.run(ctx, answer)
		})
	}
	running.Wait()
	return sessions, nil
}

// summary sums up the sessions. The reason is that of the first one that failed.
func summary(server string, sessions []*session, took time.Duration) Result {
	r := Result{Up: true, Server: server, Seconds: took.Seconds()}
	failed := 0
	for _, s := range sessions {
		r.Sessions = append(r.Sessions, s.steps)
		if s.failure == nil {
			continue
		}
		if failed++; failed == 1 {
			r.Up, r.Failed, r.Reason = false, s.failure.kind, s.failure.String()
		}
	}
	if failed > 0 && len(sessions) > 1 {
		r.Reason = fmt.Sprintf("%s (%d of %d sessions failed)", r.Reason, failed, len(sessions))
	}
	return r
}

// secret is what a probe sends in one direction. It is random, so that neither an echo
// nor a fixed answer counts as forwarding.
type secret [16]byte

func nonce() (s secret) {
	rand.Read(s[:])
	return s
}

// checkAddress refuses what the version cannot carry.
func checkAddress(o Options, ip netip.Addr) error {
	if o.Version == socks.V4 && !o.Names && !ip.Is4() {
		return fmt.Errorf("SOCKS 4 carries IPv4 addresses only, and the probe listens at %v; choose an IPv4 address with --bind, or another --socks-version", ip)
	}
	return nil
}

// timedOut reports whether an error is that of a deadline.
func timedOut(err error) bool {
	var n net.Error
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &n) && n.Timeout()
}
