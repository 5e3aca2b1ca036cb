package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"usher/limiter"
	"usher/proxy/socks"
)

// relay tells the client that it is connected, and copies both ways until
// both directions have ended. It returns why the session was ended before
// that, if it was.
func (s *session) relay(ctx context.Context, grant *limiter.Grant, target *net.TCPConn) error {
	defer context.AfterFunc(ctx, func() { _ = target.Close() })()
	var valid func() bool
	if s.server.opts.StrictLease {
		valid = grant.Valid
		defer s.endWhen(grant.Lost(), errLeaseLost)()
		if !valid() {
			return errLeaseLost
		}
	}
	reply := socks.Reply{Version: s.request.Version, Code: socks.Succeeded, Addr: socks.AddrOf(addrPort(target.LocalAddr()))}
	if err := socks.WriteReply(s.client, reply); err != nil {
		return fmt.Errorf("%w: %w", errGone, err)
	}
	s.granted = true
	s.reportConnected()
	up := flow{from: s.client, to: target, readError: errClientSide, writeError: errTargetSide, bytes: &s.up, valid: valid}
	down := flow{from: target, to: s.client, readError: errTargetSide, writeError: errClientSide, bytes: &s.down, valid: valid}
	if limit := s.socksRule.Timeouts.IO; limit > 0 {
		var last atomic.Int64
		up.last, down.last = &last, &last
		defer s.endWhenIdle(limit, &last)()
	}
	var other sync.WaitGroup
	other.Go(func() { s.copy(&down) })
	s.copy(&up)
	other.Wait()
	return context.Cause(ctx)
}

// flow is one direction of a session.
type flow struct {
	from, to              *net.TCPConn
	readError, writeError error
	bytes                 *atomic.Int64
	last                  *atomic.Int64 // nil, or when a byte last moved: Unix nanoseconds
	valid                 func() bool   // nil, or asked before every write
}

// copy runs one direction. Its end is passed on as the end of that direction
// alone; an error ends the session, and so the other direction too.
func (s *session) copy(f *flow) {
	err := f.run()
	if err == nil {
		// An error here says that the peer has reset, which the other direction meets.
		_ = f.to.CloseWrite()
		return
	}
	s.end(err)
}

func (f *flow) run() error {
	from, err := f.from.SyscallConn()
	if err != nil {
		return fmt.Errorf("%w: %w", f.readError, err)
	}
	to, err := f.to.SyscallConn()
	if err != nil {
		return fmt.Errorf("%w: %w", f.writeError, err)
	}
	r, w := newReader(from), newWriter(to, f.valid)
	for {
		buffer, n, err := r.wait()
		if n == 0 {
			if err == nil {
				return nil
			}
			return fmt.Errorf("%w: %w", f.readError, err)
		}
		n, err = w.write(buffer[:n])
		buffers.Put(buffer)
		f.bytes.Add(int64(n))
		if f.last != nil {
			f.last.Store(time.Now().UnixNano())
		}
		switch {
		case errors.Is(err, errLeaseLost):
			return err
		case err != nil:
			return fmt.Errorf("%w: %w", f.writeError, err)
		}
	}
}

// endWhen ends the session with reason when lost is closed. The returned
// function stops that and waits for it.
func (s *session) endWhen(lost <-chan struct{}, reason error) (stop func()) {
	if lost == nil {
		return func() {}
	}
	var watcher sync.WaitGroup
	over := make(chan struct{})
	watcher.Go(func() {
		select {
		case <-lost:
			s.end(reason)
		case <-over:
		}
	})
	return func() { close(over); watcher.Wait() }
}

// endWhenIdle ends the session when no byte has moved for limit. last is
// written with every byte, the timer is only set when it goes off: what is
// busy pays one clock read for a write.
func (s *session) endWhenIdle(limit time.Duration, last *atomic.Int64) (stop func()) {
	last.Store(time.Now().UnixNano())
	var mu sync.Mutex
	var timer *time.Timer
	stopped := false
	check := func() {
		mu.Lock()
		defer mu.Unlock()
		if stopped {
			return
		}
		idle := time.Since(time.Unix(0, last.Load()))
		if idle >= limit {
			s.end(errIdle)
			return
		}
		timer.Reset(limit - idle)
	}
	mu.Lock()
	defer mu.Unlock()
	timer = time.AfterFunc(limit, check)
	return func() {
		mu.Lock()
		defer mu.Unlock()
		stopped = true
		timer.Stop()
	}
}
