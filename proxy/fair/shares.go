package fair

import (
	"errors"
	"net/netip"
	"sync"
)

// Errors of Take.
var (
	ErrFull  = errors.New("all places are taken")
	ErrShare = errors.New("this source has too many places that wait")
)

// Shares gives places to sources. At first, a place waits. Settle ends the wait. A source
// may have as many waiting places as are free. So one source can take half of the free
// places, two sources can take a third each, and some are always left for others. Settled
// places have no such bound. Shares is safe for concurrent use.
type Shares struct {
	Size int // places; 0: any number. It must not change after the first Take

	mu      sync.Mutex
	taken   int
	waiting map[netip.Prefix]int
}

// Share holds places of one source.
type Share struct {
	shares  *Shares
	source  netip.Prefix
	places  int
	settled bool
}

// Take takes places. They wait until Settle. It fails with ErrFull or ErrShare.
func (s *Shares) Take(source netip.Prefix, places int) (*Share, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if free := s.Size - s.taken; s.Size > 0 {
		switch {
		case free < places:
			return nil, ErrFull
		case s.waiting[source]+places > free:
			return nil, ErrShare
		}
	}
	if s.waiting == nil {
		s.waiting = make(map[netip.Prefix]int)
	}
	s.taken += places
	s.waiting[source] += places
	return &Share{shares: s, source: source, places: places}, nil
}

// Free returns the number of free places. Size must not be 0.
func (s *Shares) Free() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.Size - s.taken
}

// Settle keeps that many places, which wait no longer, and gives the others back. Only the
// first call has an effect.
func (h *Share) Settle(keep int) {
	h.shares.mu.Lock()
	defer h.shares.mu.Unlock()
	h.settle(keep)
}

// Close gives the places back. It may be called again. It never fails.
func (h *Share) Close() error {
	h.shares.mu.Lock()
	defer h.shares.mu.Unlock()
	h.settle(h.places)
	h.shares.taken -= h.places
	h.places = 0
	return nil
}

// settle does what Settle does. The lock is held.
func (h *Share) settle(keep int) {
	if h.settled {
		return
	}
	h.settled = true
	waiting := h.shares.waiting
	if waiting[h.source] -= h.places; waiting[h.source] == 0 {
		delete(waiting, h.source)
	}
	h.shares.taken -= h.places - keep
	h.places = keep
}
