package main

import (
	"math"
	"syscall"
)

// descriptors returns how many descriptors the process may open. Go has raised
// the soft limit to the hard one before main began.
func descriptors() int {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil || limit.Cur > math.MaxInt32 {
		return math.MaxInt32 // as good as none
	}
	return int(limit.Cur)
}

// maxNegotiating returns how many clients may negotiate at a time. A session
// takes two descriptors at least; a quarter leaves room for as many sessions
// as clients that have not shown yet what they want.
func (cfg config) maxNegotiating() int {
	if cfg.Negotiating > 0 {
		return cfg.Negotiating
	}
	return max(descriptors()/4, 1)
}
