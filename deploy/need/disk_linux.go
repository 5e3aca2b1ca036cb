package need

import (
	"os"
	"syscall"
	"testing"
)

// SmallDisk returns the folder of a disk that is full after size, such as "16k". It skips
// the test if it may not mount one.
func SmallDisk(t testing.TB, size string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		Missing(t, "root, for a small disk")
	}
	dir := t.TempDir()
	if err := syscall.Mount("usher", dir, "tmpfs", 0, "mode=700,size="+size); err != nil {
		Missing(t, "the right to mount a small disk")
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}
