//go:build race

package replica

// The simulation is one goroutine: the race detector finds nothing in it and
// makes it six times slower.
const defaultSeeds = 10
