package serve

import (
	"time"

	"usher/cmd/usher/internal/handover"
	"usher/cmd/usher/internal/listen"
	"usher/cmd/usher/internal/monitor"
)

// drained is the state of usher drain, which the main loop owns.
type drained struct {
	on        bool
	grace     <-chan time.Time // the end of the grace; nil: none is waited for
	suspended bool             // the listeners are closed
	undrain   monitor.Request
	requests  chan drainRequest // of the API
}

// obey does what a request of the API asks for.
func (s *service) obey(r drainRequest) {
	if r.drain {
		s.startDrain()
		r.done <- nil
		return
	}
	r.done <- s.endDrain()
}

// startDrain does what SIGTERM does to readiness and to new sessions, until endDrain:
// not ready at once, listeners closed after the grace. Sessions go on.
func (s *service) startDrain() {
	if s.drained.on {
		return
	}
	s.drained.on = true
	s.monitor.Ready.Drained(true)
	s.drained.grace = time.After(s.cfg.DrainGrace)
	s.log.Info("draining until undrain", "grace", s.cfg.DrainGrace.String(), "sessions", s.proxy.Sessions())
}

// beginDrained makes a process that was drained before there were rules one that is
// drained. It has served no clients, so there is no grace.
func (s *service) beginDrained() {
	s.drained.on = true
	s.monitor.Ready.Drained(true)
	s.suspend()
}

// suspend closes the SOCKS listeners.
func (s *service) suspend() {
	s.drained.grace, s.drained.suspended = nil, true
	if err := s.sockets.Suspend(handover.SOCKS); err != nil {
		s.log.Warn("cannot close a listener", "error", err.Error())
	}
	s.log.Info("drained, no new sessions", "sessions", s.proxy.Sessions())
}

// endDrain takes clients again. If an address has been taken meanwhile, the process
// stays drained.
func (s *service) endDrain() error {
	if !s.drained.on {
		return nil
	}
	s.drained.undrain.Begin()
	if s.drained.suspended {
		lns, err := s.sockets.Resume(handover.SOCKS, listen.One)
		if err != nil {
			s.drained.undrain.End(err)
			s.log.Error("undrain failed, still drained", "error", err.Error())
			return err
		}
		for _, ln := range lns {
			s.loops.Run(ln, s.proxy.Serve)
		}
	}
	s.drained.on, s.drained.grace, s.drained.suspended = false, nil, false
	s.monitor.Ready.Drained(false)
	s.drained.undrain.End(nil)
	s.log.Info("undrained, new sessions again", "sessions", s.proxy.Sessions())
	return nil
}
