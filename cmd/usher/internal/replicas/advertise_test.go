package replicas

import (
	"net"
	"testing"
)

func TestAdvertise(t *testing.T) {
	const unix = "unix"
	for _, c := range []struct{ wanted, listener, local, want string }{
		{"", "0.0.0.0:9090", "192.0.2.1:4000", "192.0.2.1:9090"},
		{"", "[::]:9090", "192.0.2.1:4000", "192.0.2.1:9090"},
		{"", "[::]:9090", "[2001:db8::1]:4000", "[2001:db8::1]:9090"},
		{"", "0.0.0.0:9090", "[2001:db8::1]:4000", ""},
		{"", "192.0.2.9:9090", "192.0.2.1:4000", "192.0.2.9:9090"},
		{"", "127.0.0.1:9090", "192.0.2.1:4000", ""},
		{"", "127.0.0.1:9090", "127.0.0.1:4000", "127.0.0.1:9090"},
		{"", "[::1]:9090", "[::1]:4000", "[::1]:9090"},
		{"", "0.0.0.0:9090", "127.0.0.1:4000", "127.0.0.1:9090"},
		{"", "127.0.0.1:9090", unix, "127.0.0.1:9090"},
		{"", "0.0.0.0:9090", unix, "127.0.0.1:9090"},
		{"web1.example:9090", "127.0.0.1:9090", "192.0.2.1:4000", "web1.example:9090"},
		{"", "", "192.0.2.1:4000", ""},
	} {
		a := Advertise{Wanted: c.wanted}
		resolve := func(text string) net.Addr {
			at, err := net.ResolveTCPAddr("tcp", text)
			if err != nil {
				t.Fatal(err)
			}
			return at
		}
		if c.listener != "" {
			a.Listeners = []net.Addr{resolve(c.listener)}
		}
		var local net.Addr = &net.UnixAddr{Name: "/run/redis.sock", Net: "unix"}
		if c.local != unix {
			local = resolve(c.local)
		}
		got, why := a.address(local)
		if got != c.want || (got == "") == (why == "") {
			t.Errorf("%+v: %q %q", c, got, why)
		}
	}
}
