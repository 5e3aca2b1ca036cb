package header

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/netip"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"

	proxyproto "github.com/pires/go-proxyproto"
)

// read accepts what the library accepts, with the same meaning. It takes the header and
// nothing after it, however the bytes arrive. No part of a header is accepted as a
// whole. A header that is printed reads back as the same.
func FuzzRead(f *testing.F) {
	const v2 = "\r\n\r\n\x00\r\nQUIT\n"
	for _, seed := range []string{
		"PROXY TCP4 192.0.2.7 192.0.2.1 40000 1080\r\n\x05\x01\x00",
		"PROXY TCP6 2001:db8::7 2001:db8::1 40000 1080\r\n\x05",
		"PROXY TCP6 2001:db8::7 192.0.2.1 40000 1080\r\n\x05",
		"PROXY UNKNOWN\r\n\x05\x01\x00",
		"PROXY UNKNOWN ffff:: ffff:: 65535 65535\r\n",
		"PROXY " + strings.Repeat("x", maxV1),
		v2 + "\x21\x11\x00\x0c\xc0\x00\x02\x07\xc0\x00\x02\x01\x9c\x40\x04\x38\x05\x01\x00",
		v2 + "\x21\x11\x00\x13\xc0\x00\x02\x07\xc0\x00\x02\x01\x9c\x40\x04\x38\x04\x00\x04\x00\x00\x00\x00\x05", // a TLV
		v2 + "\x21\x21\x00\x24" + strings.Repeat("\x20", 32) + "\x9c\x40\x04\x38\x05",
		v2 + "\x20\x00\x00\x00\x05\x01\x00",
		v2 + "\x21\x11\xff\xff",
		"\x05\x01\x00",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		h, err := read(r)
		taken := b[:len(b)-r.Len()]
		slow, slowErr := read(iotest.OneByteReader(bytes.NewReader(b)))
		if (err == nil) != (slowErr == nil) || err == nil && !reflect.DeepEqual(h, slow) {
			t.Fatalf("%q: at once %+v, %v; byte by byte %+v, %v", b, h, err, slow, slowErr)
		}
		if err != nil {
			if len(b) == 0 != errors.Is(err, io.EOF) {
				t.Fatalf("%q: %v", b, err)
			}
			return
		}
		whole, err := proxyproto.Read(bufio.NewReader(bytes.NewReader(b)))
		if err != nil || !whole.EqualsTo(h) {
			t.Fatalf("%q: %+v, but the library reads %+v, %v", b, h, whole, err)
		}
		for n := range taken {
			if part, err := read(bytes.NewReader(taken[:n])); err == nil {
				t.Fatalf("%q: its part %q reads as %+v", taken, taken[:n], part)
			}
		}
		printed, err := h.Format()
		if err != nil {
			t.Fatalf("%q: cannot print %+v: %v", taken, h, err)
		}
		if again, err := read(bytes.NewReader(printed)); err != nil || !again.EqualsTo(h) {
			t.Fatalf("%q: %+v prints as %q, which reads %+v, %v", taken, h, printed, again, err)
		}
	})
}

// A balancer may end its checks by a reset.
func TestReset(t *testing.T) {
	for begins, want := range map[string]error{"": io.EOF, "PROXY TCP4 ": syscall.ECONNRESET} {
		r := io.MultiReader(strings.NewReader(begins), iotest.ErrReader(syscall.ECONNRESET))
		if _, err := Read(r); !errors.Is(err, want) {
			t.Errorf("after %q: %v, want %v", begins, err, want)
		}
	}
}

// A header may be as long as the library allows. Usher does not wait for the rest of
// one that claims to be longer.
func TestLongestHeader(t *testing.T) {
	for _, tooMuch := range []int{0, 1} {
		length := int(proxyproto.MaxV2HeaderSize) + tooMuch
		const addresses, tlv = 12, 3
		head := append([]byte{}, proxyproto.SIGV2...)
		head = append(head, 0x21, 0x11, byte(length>>8), byte(length))
		head = append(head, 192, 0, 2, 7, 192, 0, 2, 1, 0x9c, 0x40, 0x04, 0x38)
		noop := length - addresses - tlv
		head = append(head, byte(proxyproto.PP2_TYPE_NOOP), byte(noop>>8), byte(noop))
		r := bytes.NewReader(append(head, make([]byte, noop)...))
		h, err := read(r)
		switch {
		case tooMuch == 0 && (err != nil || r.Len() > 0):
			t.Errorf("%d bytes: %+v, %v, %d left; want a header", length, h, err, r.Len())
		case tooMuch > 0 && (!errors.Is(err, proxyproto.ErrInvalidLength) || r.Len() != length):
			t.Errorf("%d bytes: %v, %d left; want %v, and none of them read", length, err, r.Len(), proxyproto.ErrInvalidLength)
		}
	}
}

// nginx behind a balancer of version 2 mixes the families.
func TestReadMixedFamilies(t *testing.T) {
	for line, want := range map[string]Header{
		"PROXY TCP6 2001:db8::7 192.0.2.1 40000 1080\r\n": {
			From: netip.MustParseAddrPort("[2001:db8::7]:40000"), To: netip.MustParseAddrPort("192.0.2.1:1080"),
		},
		"PROXY TCP6 192.0.2.7 2001:db8::1 40000 1080\r\n": {
			From: netip.MustParseAddrPort("192.0.2.7:40000"), To: netip.MustParseAddrPort("[2001:db8::1]:1080"),
		},
		"PROXY TCP6 ::ffff:192.0.2.7 ::ffff:192.0.2.1 40000 1080\r\n": {
			From: netip.MustParseAddrPort("192.0.2.7:40000"), To: netip.MustParseAddrPort("192.0.2.1:1080"),
		},
	} {
		if got, err := Read(strings.NewReader(line)); err != nil || got != want {
			t.Errorf("%q: %v, %v; want %v", line, got, err, want)
		}
	}
	for _, line := range []string{
		"PROXY TCP4 2001:db8::7 192.0.2.1 40000 1080\r\n",
		"PROXY TCP6 localhost 192.0.2.1 40000 1080\r\n",
	} {
		if got, err := Read(strings.NewReader(line)); err == nil {
			t.Errorf("%q reads as %v", line, got)
		}
	}
}
