//go:build race

package suite

// raceEnabled says that this test runs with the race detector; then those of
// the other module do too.
const raceEnabled = true
