//go:build race

package integration

// raceEnabled says that these tests run with the race detector; then the
// binary under test does so too.
const raceEnabled = true
