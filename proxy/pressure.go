package proxy

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"time"

	"usher/proxy/sockopt"
)

// pressureInterval is the time between two looks at what the kernel buffers. At
// 10 Gbit/s, 60 MB come in meanwhile.
const pressureInterval = 50 * time.Millisecond

// GuardMemory keeps what the kernel buffers for all sessions below Options.MaxBuffered,
// until ctx is done. It returns at once if there is no such bound, or if the system does
// not tell what it buffers.
//
// Above half of the bound, sessions that take more than their share get small buffers.
// Above three quarters, GuardMemory ends sessions: of the source whose sessions take
// most, the one that takes most.
func (s *Server) GuardMemory(ctx context.Context) {
	if s.opts.MaxBuffered <= 0 {
		return
	}
	tick := time.NewTicker(pressureInterval)
	defer tick.Stop()
	p := pressure{server: s, most: s.opts.MaxBuffered}
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		// All connections of the machine together are cheaper to ask for.
		if all, ok := sockopt.MachineMemory(); ok && all < p.most/2 {
			continue
		}
		if err := p.relieve(); err != nil {
			s.opts.Logger.Info("the memory of sockets is not watched", slog.Any("error", err))
			return
		}
	}
}

// pressure is the state of GuardMemory.
type pressure struct {
	server  *Server
	most    int64
	bounded map[*session]bool // these have small buffers
	logged  logEvery
}

// buffered is what the kernel buffers for one session.
type buffered struct {
	session *session
	source  netip.Prefix // the zero Prefix for all that negotiate
	bytes   int64
}

// relieve looks once at all sessions, and does what GuardMemory says. The error is
// sockopt.ErrMemory.
func (p *pressure) relieve() error {
	list, sum, err := p.measure()
	if err != nil {
		return err
	}
	still := make(map[*session]bool)
	share := p.most / 2 / int64(max(len(list), 1))
	for _, b := range list {
		switch {
		case p.bounded[b.session]:
			still[b.session] = true
		case sum > p.most/2 && b.bytes > share:
			b.session.sockets.eachTCP(sockopt.Bound)
			still[b.session] = true
		}
	}
	if len(still) > len(p.bounded) && p.logged.due() {
		p.server.opts.Logger.Warn("connections buffer much, their buffers are bounded", slog.Int("sessions", len(still)), slog.Int64("buffered_mib", sum>>20))
	}
	p.bounded = still
	for _, b := range heaviest(list, sum-p.most/4*3) {
		b.session.sockets.eachTCP(func(c *net.TCPConn) {
			_ = c.SetLinger(0) // else the kernel keeps what it has to send
		})
		b.session.sockets.cut(errBuffered)
		p.server.turnAway("memory", errBuffered.Error())
	}
	return nil
}

// measure returns what the kernel buffers for each session, and the sum.
func (p *pressure) measure() (list []buffered, sum int64, err error) {
	for _, sess := range p.server.table.all() {
		b := buffered{session: sess}
		b.source = sess.sockets.eachTCP(func(c *net.TCPConn) {
			bytes, e := sockopt.Memory(c)
			if errors.Is(e, sockopt.ErrMemory) { // else it was closed meanwhile
				err = e
			}
			b.bytes += bytes
		})
		list = append(list, b)
		sum += b.bytes
	}
	return list, sum, err
}

// heaviest returns sessions that together hold at least excess bytes: again and again the
// one that holds most, of the source that holds most. It changes the order of list.
func heaviest(list []buffered, excess int64) (victims []buffered) {
	if excess <= 0 {
		return nil
	}
	slices.SortFunc(list, func(a, b buffered) int { return cmp.Compare(b.bytes, a.bytes) })
	sums, queues := map[netip.Prefix]int64{}, map[netip.Prefix][]buffered{}
	for _, b := range list {
		sums[b.source] += b.bytes
		queues[b.source] = append(queues[b.source], b)
	}
	for excess > 0 && len(sums) > 0 {
		var worst netip.Prefix
		most := int64(-1)
		for source, sum := range sums {
			if sum > most {
				worst, most = source, sum
			}
		}
		victim := queues[worst][0]
		victims = append(victims, victim)
		excess -= victim.bytes
		sums[worst] -= victim.bytes
		if queues[worst] = queues[worst][1:]; len(queues[worst]) == 0 {
			delete(sums, worst)
		}
	}
	return victims
}
