package selfaddr

import (
	"net/netip"
	"testing"
)

// What is routed to the machine itself is its own, though no interface has the
// address: networks like that of the loopback interface.
func TestRoutedHere(t *testing.T) {
	for a, want := range map[string]bool{
		"127.0.0.1": true, "127.9.9.9": true, "::1": true,
		"198.51.100.77": false, "255.255.255.255": false, "2001:db8::1": false,
	} {
		if isRoutedHere(netip.MustParseAddr(a)) != want {
			t.Errorf("%s is routed here: %v, want %v", a, !want, want)
		}
	}
}
