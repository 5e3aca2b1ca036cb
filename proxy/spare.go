package proxy

import (
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// spare is a reserved descriptor, for the time when the process has no other. One
// goroutine may use it at a time.
type spare struct {
	mu     sync.Mutex
	file   *os.File // nil: used, or it could not be had again
	closed bool
}

func newSpare() *spare {
	s := new(spare)
	s.open()
	return s
}

func (s *spare) open() {
	if file, err := os.Open(os.DevNull); err == nil {
		s.file = file
	}
}

// give frees the descriptor for another use. If it reports true, the caller must call
// take.
func (s *spare) give() bool {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return false
	}
	if s.file == nil { // somebody else was quicker; perhaps now
		s.open()
	}
	if s.file == nil {
		s.mu.Unlock()
		return false
	}
	_ = s.file.Close()
	s.file = nil
	return true
}

// take gets the descriptor back. If this fails, the next give tries again.
func (s *spare) take() {
	s.open()
	s.mu.Unlock()
}

func (s *spare) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if s.file != nil {
		_ = s.file.Close()
		s.file = nil
	}
}

// logEvery limits a log line to one in a minute. The zero value is ready for use.
type logEvery struct{ last atomic.Int64 }

// due reports whether the line may be logged now.
func (l *logEvery) due() bool {
	now, last := time.Now().UnixNano(), l.last.Load()
	return (last == 0 || now-last >= int64(time.Minute)) && l.last.CompareAndSwap(last, now)
}
