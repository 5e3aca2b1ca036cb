//go:build !race

package limiter

const (
	raceEnabled  = false
	defaultSeeds = 100
)
