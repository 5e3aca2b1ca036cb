package proxy

import (
	"context"
	"errors"
	"runtime"
	"testing"
	"unsafe"
)

// The first reason of a cut counts, and cancels the context with it.
func TestCut(t *testing.T) {
	var s sockets
	closed := make(chan struct{})
	ctx := s.begin(closer(func() { close(closed) }))
	if err := s.cause(errBindTime); !errors.Is(err, errBindTime) {
		t.Errorf("cause %v before the cut, want the error given", err)
	}
	s.cut(errDrain)
	s.cut(errEvicted)
	<-closed
	if err := s.cause(nil); !errors.Is(err, errDrain) || !errors.Is(context.Cause(ctx), errDrain) {
		t.Errorf("cause %v, that of the context %v; want %v", err, context.Cause(ctx), errDrain)
	}
}

// A session that relays has no context, and a cut still closes its sockets.
func TestCutWithoutContext(t *testing.T) {
	var s sockets
	closed := make(chan struct{})
	ctx := s.begin(closer(func() { close(closed) }))
	s.dropContext()
	if s.cancel != nil || !errors.Is(context.Cause(ctx), context.Canceled) {
		t.Errorf("the context has ended by %v and is kept: %t", context.Cause(ctx), s.cancel != nil)
	}
	s.cut(errLeaseLost)
	<-closed
	if err := s.cause(nil); !errors.Is(err, errLeaseLost) {
		t.Errorf("cause %v, want %v", err, errLeaseLost)
	}
}

// A cut does not wait for close. close may wait for a call on the socket, and that call
// for a lock of the limiter, which the caller of the cut holds.
func TestCutWaitsForNothing(t *testing.T) {
	var s sockets
	closing, cut := make(chan struct{}), make(chan struct{})
	s.begin(closer(func() { close(closing); <-cut }))
	go s.close()
	<-closing
	s.cut(errLeaseLost)
	if err := s.cause(nil); !errors.Is(err, errLeaseLost) {
		t.Errorf("cause %v, want %v", err, errLeaseLost)
	}
	close(cut)
	s.close()
}

// The memory of an idle session fills the size classes of the allocator. One more word
// would take 32 bytes.
func TestSessionIsSmall(t *testing.T) {
	if runtime.GOARCH != "amd64" && runtime.GOARCH != "arm64" {
		t.Skip("sizes of 64-bit systems")
	}
	if n := unsafe.Sizeof(session{}); n > 416 {
		t.Errorf("a session has %d bytes, want at most 416", n)
	}
}
