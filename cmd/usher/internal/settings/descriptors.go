package settings

import (
	"math"
	"syscall"
)

// Descriptors returns how many file descriptors the process may open. The Go
// runtime raises the soft limit to the hard one before main starts.
func Descriptors() int {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil || limit.Cur > math.MaxInt32 {
		return math.MaxInt32 // no limit that matters
	}
	return int(limit.Cur)
}

// mostNegotiating caps the default of MaxNegotiating. A silent client takes about
// 7 KB, so that this many take 120 MB. Where the process may open a million
// descriptors, a quarter of them would take 1.9 GB.
const mostNegotiating = 16384

// MaxNegotiating returns how many clients may negotiate at a time. By default
// that is a quarter of the descriptors: a session takes at least two, so as
// many sessions as negotiating clients still fit.
func (cfg Config) MaxNegotiating() int {
	if cfg.Negotiating > 0 {
		return cfg.Negotiating
	}
	return defaultNegotiating(Descriptors())
}

func defaultNegotiating(descriptors int) int { return min(max(descriptors/4, 1), mostNegotiating) }
