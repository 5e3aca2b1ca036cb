package settings

import (
	"math"
	"syscall"
)

// Descriptors returns how many descriptors the process may open. Go has raised
// the soft limit to the hard one before main began.
func Descriptors() int {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil || limit.Cur > math.MaxInt32 {
		return math.MaxInt32 // as good as none
	}
	return int(limit.Cur)
}

// MaxNegotiating returns how many clients may negotiate at a time. A session
// takes two descriptors at least; a quarter leaves room for as many sessions
// as clients that have not shown yet what they want.
func (cfg Config) MaxNegotiating() int {
	if cfg.Negotiating > 0 {
		return cfg.Negotiating
	}
	return max(Descriptors()/4, 1)
}
