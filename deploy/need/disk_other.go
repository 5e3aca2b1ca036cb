//go:build !linux

package need

import "testing"

// SmallDisk returns the folder of a disk that is full after size, on Linux.
func SmallDisk(t testing.TB, _ string) string {
	t.Helper()
	Missing(t, "Linux, for a small disk")
	return ""
}
