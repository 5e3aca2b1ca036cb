package listen

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"

	"usher/proxy/rules"
	"usher/proxy/selfaddr"
)

// An interface stands for its addresses of the families asked for. If there is
// none, that is an error: no address would mean any.
func TestEndpointsOfFamilies(t *testing.T) {
	lo := loopbackName(t)
	all, _ := InterfaceAddrs(lo)
	all = slices.DeleteFunc(slices.Clone(all), netip.Addr.IsLinkLocalUnicast)
	for _, families := range []rules.Families{0, rules.IPv4, rules.IPv6} {
		var want []netip.AddrPort
		for _, a := range all {
			if families == 0 || a.Is4() == (families == rules.IPv4) {
				want = append(want, netip.AddrPortFrom(a, 1080))
			}
		}
		got, err := Endpoints([]rules.Endpoint{{Interface: lo, Families: families, Port: 1080}})
		if !slices.Equal(got, want) || (err != nil) != (len(want) == 0) {
			t.Errorf("families %d: got %v, %v, want %v", families, got, err, want)
		}
	}
	const neither = rules.Families(4)
	if got, err := Endpoints([]rules.Endpoint{{Interface: lo, Families: neither}}); err == nil {
		t.Errorf("an interface without an address that can be used: got %v", got)
	}
}

func loopbackName(t *testing.T) string {
	t.Helper()
	list, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(list, func(i net.Interface) bool { return i.Flags&net.FlagLoopback != 0 })
	if i < 0 {
		t.Fatal("no loopback interface")
	}
	return list[i].Name
}

// usher explain knows the addresses of the listeners that usher serve will have
// without opening them.
func TestAddressesOfListenersThatAreNotOpen(t *testing.T) {
	for _, host := range []string{"", "0.0.0.0", "[::]", "127.0.0.1", "[::1]", "[::ffff:127.0.0.1]"} {
		ln, err := One(host + ":0")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		want := selfaddr.OfListener(ln)
		address := fmt.Sprintf("%s:%d", host, want[0].Port())
		if got := selfaddr.OfAddresses([]string{address}); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", address, got, want)
		}
	}
}
