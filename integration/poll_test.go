package integration

import (
	"sync"
	"testing"
	"time"
)

// eventually asks check until it returns "", and fails the test with what it
// returned last if that takes longer than within.
func eventually(t testing.TB, within time.Duration, check func() (trouble string)) {
	t.Helper()
	if trouble := poll(within, check); trouble != "" {
		t.Fatalf("after %v: %s", within, trouble)
	}
}

// poll asks check until it returns "" or within has passed, and returns what
// it returned last.
func poll(within time.Duration, check func() (trouble string)) string {
	deadline := time.Now().Add(within)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		trouble := check()
		if trouble == "" || time.Now().After(deadline) {
			return trouble
		}
		<-tick.C
	}
}

// together calls f(0) to f(n-1) at the same time and waits for all.
func together(n int, f func(i int)) {
	var ready, done sync.WaitGroup
	start := make(chan struct{})
	for i := range n {
		ready.Add(1)
		done.Go(func() {
			ready.Done()
			<-start
			f(i)
		})
	}
	ready.Wait()
	close(start)
	done.Wait()
}
