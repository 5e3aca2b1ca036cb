//go:build !linux

package proxy

import "syscall"

// watch does nothing here: a client that hangs up while its session waits for
// somebody else is noticed at the next read or write.
func (s *session) watch(bool) (stop func()) { return func() {} }

// isBroken knows nothing here: a reset that a write was told of may look like
// an end to the other direction.
func isBroken(syscall.RawConn) (broken bool, err error) { return false, nil }
