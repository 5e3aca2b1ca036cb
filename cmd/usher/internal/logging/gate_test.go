package logging

import (
	"bytes"
	"sync"
)

// gate is a destination that can fail.
type gate struct {
	mu   sync.Mutex
	text bytes.Buffer
	err  error
}

func (g *gate) Write(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.err != nil {
		return 0, g.err
	}
	return g.text.Write(p)
}

func (g *gate) String() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.text.String()
}
