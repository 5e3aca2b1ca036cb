package fair

import (
	"errors"
	"testing"
)

// fill takes places for a source until it gets no more, and returns them.
func fill(t *testing.T, s *Shares, n int, want error) (list []*Share) {
	t.Helper()
	for {
		share, err := s.Take(source(n), 1)
		if err != nil {
			if !errors.Is(err, want) {
				t.Errorf("%v, want %v", err, want)
			}
			return list
		}
		list = append(list, share)
	}
}

// However many places a source makes wait, it leaves some to others.
func TestPlacesThatWaitAreShared(t *testing.T) {
	s := &Shares{Size: 120}
	first := fill(t, s, 1, ErrShare)
	second := fill(t, s, 2, ErrShare)
	if len(first) != 60 || len(second) != 30 || s.Free() != 30 {
		t.Errorf("two sources have %d and %d, and %d are free", len(first), len(second), s.Free())
	}
	third, err := s.Take(source(3), 3)
	if err != nil {
		t.Fatal(err)
	}
	third.Settle(2)
	if s.Free() != 28 {
		t.Errorf("%d are free, want one that was given back", s.Free())
	}
	for _, share := range first { // each settles one and takes another
		share.Settle(1)
		share.Settle(1)
	}
	settled := 0
	for {
		share, err := s.Take(source(1), 1)
		if err != nil {
			break
		}
		share.Settle(1)
		settled++
	}
	if settled != 28 || s.Free() != 0 {
		t.Errorf("%d were settled and %d are free: a source may have all places that do not wait", settled, s.Free())
	}
	if _, err := s.Take(source(4), 1); !errors.Is(err, ErrFull) {
		t.Errorf("%v, want %v", err, ErrFull)
	}
	for _, share := range append(first, second...) {
		share.Close()
		share.Close()
	}
	if s.Free() != 90 || len(s.waiting) != 0 {
		t.Errorf("%d are free, of %d sources some wait; want 90 and 0", s.Free(), len(s.waiting))
	}
}

func TestAnyNumberOfPlaces(t *testing.T) {
	var s Shares
	for range 1000 {
		if _, err := s.Take(source(1), 2); err != nil {
			t.Fatal(err)
		}
	}
}
