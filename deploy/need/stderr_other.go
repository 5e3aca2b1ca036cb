//go:build !linux

package need

import "os"

// Stderr returns the standard error of the test, which go test hides if the
// package passes.
func Stderr() *os.File { return os.Stderr }
