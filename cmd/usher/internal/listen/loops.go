package listen

import (
	"net"
	"sync"
)

// Loops are the accept loops of listeners. Their methods are safe for concurrent use.
type Loops struct {
	broken  chan error
	running sync.WaitGroup
}

// NewLoops returns Loops without a listener.
func NewLoops() *Loops { return &Loops{broken: make(chan error, 1)} }

// Run calls serve with ln, in a goroutine.
func (l *Loops) Run(ln net.Listener, serve func(net.Listener) error) {
	l.running.Go(func() {
		if err := serve(ln); err != nil {
			select {
			case l.broken <- err:
			default: // the first failure ends the process
			}
		}
	})
}

// Broken gives the first error that a serve has returned.
func (l *Loops) Broken() <-chan error { return l.broken }

// Wait returns when every serve has returned.
func (l *Loops) Wait() { l.running.Wait() }
