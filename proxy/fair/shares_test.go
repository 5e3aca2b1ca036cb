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

// However many places a source asks for, it leaves some to others.
func TestPlacesThatWaitAreShared(t *testing.T) {
	s := &Shares{Size: 120}
	first := fill(t, s, 1, ErrWaiting)
	second := fill(t, s, 2, ErrWaiting)
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
	if more := settle(t, s, 1, ErrShare); len(more) != 13 || s.Free() != 15 {
		t.Errorf("%d more were settled and %d are free: a source with many gets none of the last eighth", len(more), s.Free())
	}
	for _, share := range append(first, second...) {
		share.Close()
		share.Close()
	}
	third.Close()
	if s.Free() != 107 || len(s.bySrc) != 1 {
		t.Errorf("%d are free, and %d sources have some; want 107 and 1", s.Free(), len(s.bySrc))
	}
}

// settle takes connected places for a source until it gets no more.
func settle(t *testing.T, s *Shares, n int, want error) (list []*Share) {
	t.Helper()
	for {
		share, err := s.Take(source(n), 1)
		if err != nil {
			if !errors.Is(err, want) {
				t.Errorf("%v, want %v", err, want)
			}
			return list
		}
		share.Settle(1)
		list = append(list, share)
	}
}

// A source may hold any number of places while many are free. Of the last eighth, a
// source gets none if it holds more than are free.
func TestLastPlacesAreShared(t *testing.T) {
	s := &Shares{Size: 408}
	if office := settle(t, s, 1, ErrShare); len(office) != 357 || s.Free() != 51 {
		t.Errorf("one source has %d, and %d are free", len(office), s.Free())
	}
	if other := settle(t, s, 2, ErrShare); len(other) != 26 || s.Free() != 25 {
		t.Errorf("the second one has %d, and %d are free", len(other), s.Free())
	}
	for n := range 20 {
		share, err := s.Take(source(3+n), 1)
		if err != nil {
			t.Fatalf("source %d, with %d free: %v", 3+n, s.Free(), err)
		}
		share.Settle(1)
	}
	for n := range 5 {
		if _, err := s.Take(source(30+n), 1); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Take(source(40), 1); !errors.Is(err, ErrFull) {
		t.Errorf("%v, want %v", err, ErrFull)
	}
}

// Several sources together leave places to the next one.
func TestManySourcesLeavePlaces(t *testing.T) {
	s := &Shares{Size: 400}
	for more := true; more; {
		more = false
		for n := range 30 {
			if share, err := s.Take(source(n), 2); err == nil {
				share.Settle(2)
				more = true
			}
		}
	}
	if _, err := s.Take(source(31), 2); err != nil {
		t.Errorf("%v for the 31st source, %d are free", err, s.Free())
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
