package fair

import (
	"errors"
	"net/netip"
	"sync"
)

// Errors of Take.
var (
	ErrFull    = errors.New("all places are taken")
	ErrWaiting = errors.New("this source has too many places that wait")
	ErrShare   = errors.New("this source has too many places while few are free")
)

// Shares gives places to sources. At first, a place waits. Settle ends the wait. A source
// may have as many waiting places as are free. So one source can take half of the free
// places, two sources can take a third each, and some are always left for others.
//
// Settled places have no such bound until few places are free: less than an eighth. From
// then on, a source that holds as many places as are free gets no more. So one source can
// take seven eighths, and the others are left for sources that hold few. Shares is safe
// for concurrent use.
type Shares struct {
	Size int // places; 0: any number. It must not change after the first Take

	mu    sync.Mutex
	taken int
	bySrc map[netip.Prefix]held
}

// held is how many places a source has.
type held struct{ all, waiting int }

// few is the part of the places that makes a source's places count: one of so many.
const few = 8

// Share holds places of one source.
type Share struct {
	shares  *Shares
	source  netip.Prefix
	places  int
	settled bool
}

// Take takes places. They wait until Settle. It fails with ErrFull, ErrWaiting or
// ErrShare.
func (s *Shares) Take(source netip.Prefix, places int) (*Share, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if free, has := s.Size-s.taken, s.bySrc[source]; s.Size > 0 {
		switch {
		case free < places:
			return nil, ErrFull
		case free-places < s.Size/few && has.all+places > free:
			return nil, ErrShare
		case has.waiting+places > free:
			return nil, ErrWaiting
		}
	}
	s.taken += places
	s.change(source, places, places)
	return &Share{shares: s, source: source, places: places}, nil
}

// change adds to what a source holds. The lock is held.
func (s *Shares) change(source netip.Prefix, all, waiting int) {
	if s.bySrc == nil {
		s.bySrc = make(map[netip.Prefix]held)
	}
	has := s.bySrc[source]
	has.all += all
	has.waiting += waiting
	if s.bySrc[source] = has; has == (held{}) {
		delete(s.bySrc, source)
	}
}

// Source returns the source that holds the places.
func (h *Share) Source() netip.Prefix { return h.source }

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
	h.shares.change(h.source, -h.places, 0)
	h.places = 0
	return nil
}

// settle does what Settle does. The lock is held.
func (h *Share) settle(keep int) {
	if h.settled {
		return
	}
	h.settled = true
	h.shares.change(h.source, keep-h.places, -h.places)
	h.shares.taken -= h.places - keep
	h.places = keep
}
