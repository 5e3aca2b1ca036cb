//go:build !linux

package sockopt

import "net"

// Memory returns ErrMemory.
func Memory(*net.TCPConn) (bytes int64, err error) { return 0, ErrMemory }

// Unsent returns 0.
func Unsent(*net.TCPConn) (bytes int) { return 0 }

// MachineMemory returns false.
func MachineMemory() (bytes int64, ok bool) { return 0, false }
