//go:build !linux

package selfaddr

import "net/netip"

// isRoutedHere is always false: on these systems only the addresses of
// interfaces count as the machine's own.
func isRoutedHere(netip.Addr) bool { return false }
