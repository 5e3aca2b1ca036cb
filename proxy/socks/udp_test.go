package socks

import (
	"bytes"
	"errors"
	"io"
	"net/netip"
	"reflect"
	"testing"
)

// datagrams are written out by hand, from RFC 1928 section 7.
var datagrams = []struct {
	bytes string
	value Datagram
}{
	{"\x00\x00\x00\x01\xc0\x00\x02\x07\x00\x35hello", Datagram{Addr: Addr{IP: ip4, Port: 53}, Data: []byte("hello")}},
	{"\x00\x00\x00\x01\xc0\x00\x02\x07\x00\x35", Datagram{Addr: Addr{IP: ip4, Port: 53}, Data: []byte{}}},
	{"\x00\x00\x00\x04\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x07\xff\xff\x00",
		Datagram{Addr: Addr{IP: ip6, Port: 65535}, Data: []byte{0}}},
	{"\x00\x00\x00\x03\x0bexample.org\x01\xbbq", Datagram{Addr: Addr{Name: "example.org", Port: 443}, Data: []byte("q")}},
	{"\x00\x00\x00\x03\xff" + name255 + "\x00\x01", Datagram{Addr: Addr{Name: name255, Port: 1}, Data: []byte{}}},
	{"\x00\x00\x81\x01\xc0\x00\x02\x07\x00\x35x", Datagram{Frag: 0x81, Addr: Addr{IP: ip4, Port: 53}, Data: []byte("x")}},
}

func TestDatagrams(t *testing.T) {
	for _, d := range datagrams {
		got, err := ParseDatagram([]byte(d.bytes))
		if err != nil || !reflect.DeepEqual(got, d.value) {
			t.Errorf("%q: %+v, %v; want %+v", d.bytes, got, err, d.value)
		}
		headerLen := len(d.bytes) - len(d.value.Data)
		for cut := range headerLen {
			if _, err := ParseDatagram([]byte(d.bytes[:cut])); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("%q: %v, want %v", d.bytes[:cut], err, io.ErrUnexpectedEOF)
			}
		}
		if headerLen > MaxUDPHeader {
			t.Errorf("%q has a header of %d bytes, more than MaxUDPHeader", d.bytes, headerLen)
		}
		if ip := d.value.Addr.IP; ip.IsValid() && UDPHeaderLen(ip) != headerLen {
			t.Errorf("%v: %d bytes, want %d", ip, UDPHeaderLen(ip), headerLen)
		}
	}
}

func TestBadDatagrams(t *testing.T) {
	for text, want := range map[string]error{
		"\x00\x00\x00\x02\xc0\x00\x02\x07\x00\x35":   ErrAddressType,
		"\x00\x00\x00\x03\x00\x00\x35":               ErrName, // empty
		"\x00\x00\x00\x03\x03a\x00b\x00\x35":         ErrName,
		"\x00\x00\x00\x03\xffshorter than it says":   io.ErrUnexpectedEOF,
		"\x00\x00\x00\x04\xc0\x00\x02\x07\x00\x35xy": io.ErrUnexpectedEOF,
	} {
		if d, err := ParseDatagram([]byte(text)); !errors.Is(err, want) || d.Data != nil {
			t.Errorf("%q: %+v, %v; want %v", text, d, err, want)
		}
	}
	if _, err := AppendUDPHeader(nil, Addr{Name: name255 + "x"}); !errors.Is(err, ErrTooLong) {
		t.Errorf("%v, want %v", err, ErrTooLong)
	}
}

// What a relay does with a datagram to or from an IP address needs no memory.
func TestDatagramsDoNotAllocate(t *testing.T) {
	b := []byte(datagrams[2].bytes)
	header := make([]byte, 0, MaxUDPHeaderIP)
	if n := testing.AllocsPerRun(100, func() {
		d, err := ParseDatagram(b)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := AppendUDPHeader(header, AddrOf(netip.AddrPortFrom(d.Addr.IP, d.Addr.Port))); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations for a datagram", n)
	}
}

// What parses prints back byte for byte, but for what is not looked at: the
// reserved bytes, and FRAG, which no server sets.
func FuzzParseDatagram(f *testing.F) {
	for _, d := range datagrams {
		f.Add([]byte(d.bytes))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := ParseDatagram(b)
		if err != nil {
			if !reflect.DeepEqual(d, Datagram{}) {
				t.Fatalf("%q: %v, and %+v", b, err, d)
			}
			return
		}
		header, err := AppendUDPHeader(nil, d.Addr)
		if err != nil {
			t.Fatalf("%q: cannot print %+v: %v", b, d, err)
		}
		header[0], header[1], header[2] = b[0], b[1], d.Frag
		if again := append(header, d.Data...); !bytes.Equal(again, b) {
			t.Fatalf("%q prints as %q", b, again)
		}
	})
}
