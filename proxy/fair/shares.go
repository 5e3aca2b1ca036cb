package fair

import (
	"errors"
	"net/netip"
	"sync"
)

// Why there is no place.
var (
	ErrFull  = errors.New("all places are taken")
	ErrShare = errors.New("this source has too many places that wait")
)

// Shares hands out a number of places. A place waits at first, until it is settled.
// A source may have as many places that wait as there are free ones: one source can
// make half of them wait, two can make a third each, and some are left for others.
// Settled places have no bound for each source. It is safe for concurrent use.
type Shares struct {
	Size int // places; 0: any number. It must not change after the first Take

	mu      sync.Mutex
	taken   int
	waiting map[netip.Prefix]int
}

// Share is some places of one source.
type Share struct {
	shares  *Shares
	source  netip.Prefix
	places  int
	settled bool
}

// Take takes places, which wait until Settle. The error is ErrFull or ErrShare.
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

// Free returns the number of free places, of a Size that is not 0.
func (s *Shares) Free() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.Size - s.taken
}

// Settle says that the places wait no longer. It gives those above keep back. Twice is
// harmless.
func (h *Share) Settle(keep int) {
	h.shares.mu.Lock()
	defer h.shares.mu.Unlock()
	h.settle(keep)
}

// Close gives the places back. Twice is harmless. It never fails.
func (h *Share) Close() error {
	h.shares.mu.Lock()
	defer h.shares.mu.Unlock()
	h.settle(h.places)
	h.shares.taken -= h.places
	h.places = 0
	return nil
}

// settle is Settle. The lock is held.
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
