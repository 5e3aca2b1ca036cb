//go:build !linux

package need

// TotalFile returns an assignment for another go command, which does nothing here.
func TotalFile() string { return "USHER_TEST_SKIPPED=" }

// addUp returns what this package skipped.
func addUp(own map[string]int) map[string]int { return own }
