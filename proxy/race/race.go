// Package race connects to the first of several addresses that answers, as in RFC 8305
// ("Happy Eyeballs"). IPv6 and IPv4 addresses take turns. An address that does not
// answer delays the next one only for a short time. The package knows neither sessions
// nor rules.
package race

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"time"
)

const (
	// delay is how long an attempt has before the next one begins beside it
	// (RFC 8305 section 5).
	delay = 250 * time.Millisecond
	// MaxAttempts is how many attempts of one session may be under way at a time.
	// Each has a goroutine and a descriptor.
	MaxAttempts = 4
	// minAttempt is the least time for an attempt, so that the first addresses of a
	// long list have a chance.
	minAttempt = 2 * time.Second
)

// ErrSlower says that another address has answered first.
var ErrSlower = errors.New("another address answered before")

// Failure is an address to which the connection failed, and the reason.
type Failure struct {
	Addr netip.Addr
	Err  error
}

// Connect connects to one address. It must return when its context ends.
type Connect func(ctx context.Context) (*net.TCPConn, error)

// Dial connects to the first of addrs that answers. It begins with the first address,
// and then takes the families in turn. The next attempt begins after 250 ms, or at once
// when one has failed. At most four attempts are under way at a time. When Dial returns,
// all attempts have ended, and the other connections are closed.
//
// Dial calls prepare before each attempt, in the goroutine of the caller. If prepare
// fails, the attempt has failed.
//
// Dial returns the connection and its address, and the failures of the other addresses
// that it tried. The connection is nil if no address answered before ctx ended.
func Dial(ctx context.Context, addrs []netip.Addr, prepare func(netip.Addr) (Connect, error)) (*net.TCPConn, netip.Addr, []Failure) {
	if len(addrs) == 1 { // the usual case needs no goroutine
		connect, err := prepare(addrs[0])
		if err == nil {
			var c *net.TCPConn
			if c, err = connect(ctx); err == nil {
				return c, addrs[0], nil
			}
		}
		return nil, netip.Addr{}, []Failure{{addrs[0], err}}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r := race{left: Interleave(addrs), prepare: prepare, results: make(chan result), next: time.NewTimer(0)}
	defer r.next.Stop()
	won := r.run(ctx)
	why := ErrSlower
	if won.conn == nil {
		why = context.Cause(ctx)
	}
	cancel()
	r.join(why)
	return won.conn, won.addr, r.failures
}

// race is the state of one Dial. Only the goroutine of the caller uses it.
type race struct {
	left     []netip.Addr // not tried yet
	prepare  func(netip.Addr) (Connect, error)
	next     *time.Timer // until the next attempt
	running  int         // attempts under way
	results  chan result // one of each attempt
	failures []Failure
}

// result is the result of an attempt.
type result struct {
	addr netip.Addr
	conn *net.TCPConn
	err  error
}

// run returns the first attempt that succeeds, or the zero result.
func (r *race) run(ctx context.Context) result {
	for r.running > 0 || len(r.left) > 0 {
		var next <-chan time.Time
		if r.running < MaxAttempts && len(r.left) > 0 {
			next = r.next.C
		}
		select {
		case <-next:
			r.begin(ctx)
		case ended := <-r.results:
			r.running--
			if ended.err == nil {
				return ended
			}
			r.fail(ended.addr, ended.err)
		case <-ctx.Done():
			return result{}
		}
	}
	return result{}
}

// begin begins the next attempt.
func (r *race) begin(ctx context.Context) {
	limit := share(ctx, len(r.left))
	addr := r.left[0]
	r.left = r.left[1:]
	connect, err := r.prepare(addr)
	if err != nil {
		r.fail(addr, err)
		return
	}
	r.running++
	r.next.Reset(delay)
	go func() {
		ctx, cancel := ctx, context.CancelFunc(func() {})
		if limit > 0 {
			ctx, cancel = context.WithTimeout(ctx, limit)
		}
		defer cancel()
		conn, err := connect(ctx)
		r.results <- result{addr, conn, err}
	}()
}

// fail records a failure. The next attempt need not wait.
func (r *race) fail(addr netip.Addr, err error) {
	r.failures = append(r.failures, Failure{addr, err})
	r.next.Reset(0)
}

// join waits for the attempts that are under way, and closes their connections. The
// caller has told them to end, because of why.
func (r *race) join(why error) {
	for ; r.running > 0; r.running-- {
		late := <-r.results
		if late.err == nil {
			_ = late.conn.Close()
		}
		r.failures = append(r.failures, Failure{late.addr, why})
	}
}

// share returns how long an attempt may take if this many addresses are left, its own
// included. 0 means as long as ctx. The last MaxAttempts attempts have all the time,
// because no address waits for their end.
func share(ctx context.Context, left int) time.Duration {
	end, ok := ctx.Deadline()
	if !ok || left <= MaxAttempts {
		return 0
	}
	rounds := (left + MaxAttempts - 1) / MaxAttempts
	return max(time.Until(end)/time.Duration(rounds), minAttempt)
}

// Interleave returns the addresses with IPv4 and IPv6 in turn, beginning with the family
// of the first one. It keeps the order within each family (RFC 8305 section 4), and does
// not change its argument.
func Interleave(addrs []netip.Addr) []netip.Addr {
	var turns [2][]netip.Addr
	for _, a := range addrs {
		turn := 0
		if a.Is4() != addrs[0].Is4() {
			turn = 1
		}
		turns[turn] = append(turns[turn], a)
	}
	mixed := make([]netip.Addr, 0, len(addrs))
	for i := range max(len(turns[0]), len(turns[1])) {
		for _, turn := range turns {
			if i < len(turn) {
				mixed = append(mixed, turn[i])
			}
		}
	}
	return mixed
}
