package socks

import (
	"bytes"
	"net/netip"
	"reflect"
	"testing"
)

// The other direction of what check asks: whatever a writer accepts, the
// reader gives back, and takes to the last byte.

// readBack expects read to give want for all of what was written.
func readBack[T any](t *testing.T, w *bytes.Buffer, read func(*bytes.Buffer) (T, error), want T) {
	t.Helper()
	wire := w.String()
	got, err := read(w)
	if err != nil || !reflect.DeepEqual(got, want) || w.Len() != 0 {
		t.Fatalf("%+v was written as %q and reads %+v, %v, with %d bytes left", want, wire, got, err, w.Len())
	}
}

// address makes an Addr of 0, 4 or 16 bytes, and a name.
func address(ip []byte, name string, port uint16) Addr {
	a := Addr{Name: name, Port: port}
	if name == "" {
		a.IP, _ = netip.AddrFromSlice(ip)
	}
	return a
}

func FuzzWriteRequest(f *testing.F) {
	f.Add(true, byte(Connect), []byte{192, 0, 2, 7}, "", uint16(80), "fred")
	f.Add(true, byte(Bind), []byte{0, 0, 0, 9}, "", uint16(80), "")
	f.Add(true, byte(Connect), []byte{}, "example.org", uint16(80), "fred\x00")
	f.Add(false, byte(UDPAssociate), []byte{}, "", uint16(0), "")
	f.Add(false, byte(Connect), ip6.AsSlice(), "", uint16(443), "")
	f.Add(false, byte(Connect), []byte{}, name255, uint16(443), "")
	f.Add(false, byte(Connect), []byte{}, "evil\x00.test", uint16(443), "")
	f.Fuzz(func(t *testing.T, v4 bool, command byte, ip []byte, name string, port uint16, user string) {
		q := Request{Version: V5, Command: Command(command), Addr: address(ip, name, port)}
		if v4 {
			q.Version, q.UserID = V4, user
		}
		var w bytes.Buffer
		if WriteRequest(&w, q) != nil {
			if w.Len() != 0 {
				t.Fatalf("%+v was refused after %q", q, w.Bytes())
			}
			return
		}
		if v4 {
			readBack(t, &w, func(b *bytes.Buffer) (Opening, error) { return ReadOpening(b) }, Opening{Version: V4, Request: q})
			return
		}
		if q.Addr.Name == "" && !q.Addr.IP.IsValid() {
			q.Addr.IP = netip.IPv4Unspecified()
		}
		readBack(t, &w, func(b *bytes.Buffer) (Request, error) { return ReadRequest(b) }, q)
	})
}

func FuzzWriteReply(f *testing.F) {
	f.Add(false, byte(Succeeded), ip4.AsSlice(), "", uint16(1080))
	f.Add(false, byte(NotAllowed), ip6.AsSlice(), "", uint16(0))
	f.Add(true, byte(Succeeded), ip4.AsSlice(), "", uint16(1080))
	f.Add(true, byte(Succeeded), netip.AddrFrom16(ip4.As16()).AsSlice(), "", uint16(1080))
	f.Add(false, byte(Succeeded), []byte{}, "evil\x00.test", uint16(1080))
	f.Add(true, byte(GeneralFailure), ip6.AsSlice(), "", uint16(1080))
	f.Fuzz(func(t *testing.T, v4 bool, code byte, ip []byte, name string, port uint16) {
		p := Reply{Version: V5, Code: Code(code), Addr: address(ip, name, port)}
		if v4 {
			p.Version = V4
		}
		var w bytes.Buffer
		if WriteReply(&w, p) != nil {
			if w.Len() != 0 {
				t.Fatalf("%+v was refused after %q", p, w.Bytes())
			}
			return
		}
		if v4 {
			p.Addr.IP = p.Addr.IP.Unmap()
		}
		if v4 && (p.Addr.Name != "" || !p.Addr.IP.Is4()) || !p.Addr.IP.IsValid() && p.Addr.Name == "" {
			p.Addr.IP, p.Addr.Name = netip.IPv4Unspecified(), ""
		}
		if v4 && p.Code != Succeeded {
			p.Code = GeneralFailure
		}
		readBack(t, &w, func(b *bytes.Buffer) (Reply, error) { return ReadReply(b, p.Version) }, p)
	})
}

func FuzzWriteCredentials(f *testing.F) {
	f.Add("fred", "secret")
	f.Add("", "")
	f.Add(name255, name255+"n")
	f.Fuzz(func(t *testing.T, user, password string) {
		c := Credentials{User: user, Password: password}
		var w bytes.Buffer
		if WriteCredentials(&w, c) != nil {
			if len(user) <= MaxName && len(password) <= MaxName || w.Len() != 0 {
				t.Fatalf("%+v was refused after %q", c, w.Bytes())
			}
			return
		}
		readBack(t, &w, func(b *bytes.Buffer) (Credentials, error) { return ReadCredentials(b) }, c)
	})
}

func FuzzWriteGreeting(f *testing.F) {
	f.Add([]byte{0, 2})
	f.Add([]byte{})
	f.Add(make([]byte, 256))
	f.Fuzz(func(t *testing.T, b []byte) {
		methods := make([]Method, len(b))
		for i, m := range b {
			methods[i] = Method(m)
		}
		var w bytes.Buffer
		if WriteGreeting(&w, methods...) != nil {
			if len(b) < 256 || w.Len() != 0 {
				t.Fatalf("%d methods were refused after %q", len(b), w.Bytes())
			}
			return
		}
		readBack(t, &w, func(b *bytes.Buffer) (Opening, error) { return ReadOpening(b) }, Opening{Version: V5, Methods: methods})
	})
}
