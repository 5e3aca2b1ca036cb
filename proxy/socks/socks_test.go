package socks

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
)

// parser is one reader, seen as a function of bytes; write prints the value
// back.
type parser struct {
	name  string
	read  func(io.Reader) (any, error)
	write func(io.Writer, any) error
}

var parsers = []parser{
	{"opening",
		func(r io.Reader) (any, error) { return ReadOpening(r) },
		func(w io.Writer, v any) error {
			o := v.(Opening)
			if o.Version == V4 {
				return WriteRequest(w, o.Request)
			}
			return WriteGreeting(w, o.Methods...)
		}},
	{"method",
		func(r io.Reader) (any, error) { return ReadMethod(r) },
		func(w io.Writer, v any) error { return WriteMethod(w, v.(Method)) }},
	{"credentials",
		func(r io.Reader) (any, error) { return ReadCredentials(r) },
		func(w io.Writer, v any) error { return WriteCredentials(w, v.(Credentials)) }},
	{"auth",
		func(r io.Reader) (any, error) { return ReadAuth(r) },
		func(w io.Writer, v any) error { return WriteAuth(w, v.(bool)) }},
	{"request5",
		func(r io.Reader) (any, error) { return ReadRequest(r) },
		func(w io.Writer, v any) error { return WriteRequest(w, v.(Request)) }},
	{"reply5",
		func(r io.Reader) (any, error) { return ReadReply(r, V5) },
		func(w io.Writer, v any) error { return WriteReply(w, v.(Reply)) }},
	{"reply4",
		func(r io.Reader) (any, error) { return ReadReply(r, V4) },
		func(w io.Writer, v any) error { return WriteReply(w, v.(Reply)) }},
}

func parserNamed(tb testing.TB, name string) parser {
	tb.Helper()
	for _, p := range parsers {
		if p.name == name {
			return p
		}
	}
	tb.Fatalf("no parser %q", name)
	return parser{}
}

var (
	name255 = strings.Repeat("n", MaxName)
	ip4     = netip.MustParseAddr("192.0.2.7")
	ip6     = netip.MustParseAddr("2001:db8::7")
)

// messages are the formats written out by hand, from the RFCs' figures.
var messages = []struct {
	parser string
	bytes  string
	value  any
}{
	{"opening", "\x05\x00", Opening{Version: V5, Methods: []Method{}}},
	{"opening", "\x05\x02\x00\x02", Opening{Version: V5, Methods: []Method{NoAuth, Username}}},
	{"opening", "\x04\x01\x00\x50\xc0\x00\x02\x07\x00",
		Opening{Version: V4, Request: Request{Version: V4, Command: Connect, Addr: Addr{IP: ip4, Port: 80}}}},
	{"opening", "\x04\x02\x01\xbb\xc0\x00\x02\x07fred\x00",
		Opening{Version: V4, Request: Request{Version: V4, Command: Bind, Addr: Addr{IP: ip4, Port: 443}, UserID: "fred"}}},
	{"opening", "\x04\x01\x00\x50\x00\x00\x00\x01fred\x00example.org\x00",
		Opening{Version: V4, Request: Request{Version: V4, Command: Connect, Addr: Addr{Name: "example.org", Port: 80}, UserID: "fred"}}},
	{"opening", "\x04\x01\x00\x50\x00\x00\x00\x01" + name255 + "\x00" + name255 + "\x00",
		Opening{Version: V4, Request: Request{Version: V4, Command: Connect, Addr: Addr{Name: name255, Port: 80}, UserID: name255}}},
	{"method", "\x05\x02", Username},
	{"method", "\x05\xff", NoAcceptable},
	{"credentials", "\x01\x00\x00", Credentials{}},
	{"credentials", "\x01\x04fred\x06secret", Credentials{User: "fred", Password: "secret"}},
	{"credentials", "\x01\xff" + name255 + "\xff" + name255, Credentials{User: name255, Password: name255}},
	{"auth", "\x01\x00", true},
	{"auth", "\x01\x01", false},
	{"request5", "\x05\x01\x00\x01\xc0\x00\x02\x07\x00\x50",
		Request{Version: V5, Command: Connect, Addr: Addr{IP: ip4, Port: 80}}},
	{"request5", "\x05\x03\x00\x04\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x07\x00\x00",
		Request{Version: V5, Command: UDPAssociate, Addr: Addr{IP: ip6}}},
	{"request5", "\x05\x02\x00\x03\x0bexample.org\xff\xff",
		Request{Version: V5, Command: Bind, Addr: Addr{Name: "example.org", Port: 65535}}},
	{"request5", "\x05\x01\x00\x03\xff" + name255 + "\x00\x01",
		Request{Version: V5, Command: Connect, Addr: Addr{Name: name255, Port: 1}}},
	{"request5", "\x05\x63\x00\x01\xc0\x00\x02\x07\x00\x50", // unknown command: the server's to answer
		Request{Version: V5, Command: 0x63, Addr: Addr{IP: ip4, Port: 80}}},
	{"reply5", "\x05\x00\x00\x01\xc0\x00\x02\x07\x04\x38",
		Reply{Version: V5, Code: Succeeded, Addr: Addr{IP: ip4, Port: 1080}}},
	{"reply5", "\x05\x02\x00\x01\x00\x00\x00\x00\x00\x00",
		Reply{Version: V5, Code: NotAllowed, Addr: Addr{IP: netip.IPv4Unspecified()}}},
	{"reply4", "\x00\x5a\x04\x38\xc0\x00\x02\x07", Reply{Version: V4, Code: Succeeded, Addr: Addr{IP: ip4, Port: 1080}}},
	{"reply4", "\x00\x5b\x00\x00\x00\x00\x00\x00", Reply{Version: V4, Code: GeneralFailure, Addr: Addr{IP: netip.IPv4Unspecified()}}},
}

// onePiece fails a message that is written in several.
type onePiece struct {
	t *testing.T
	bytes.Buffer
}

func (w *onePiece) Write(b []byte) (int, error) {
	if w.Len() > 0 {
		w.t.Errorf("second write %q", b)
	}
	return w.Buffer.Write(b)
}

func TestMessagesBothWays(t *testing.T) {
	const early = "payload"
	for _, m := range messages {
		p := parserNamed(t, m.parser)
		for _, pace := range []func(io.Reader) io.Reader{
			func(r io.Reader) io.Reader { return r }, iotest.OneByteReader, iotest.HalfReader,
		} {
			rest := strings.NewReader(m.bytes + early)
			got, err := p.read(pace(rest))
			if err != nil || !reflect.DeepEqual(got, m.value) {
				t.Errorf("%s %q: read %+v, %v; want %+v", m.parser, m.bytes, got, err, m.value)
			}
			if left, _ := io.ReadAll(rest); string(left) != early {
				t.Errorf("%s %q: left %q unread, want %q", m.parser, m.bytes, left, early)
			}
		}
		w := onePiece{t: t}
		if err := p.write(&w, m.value); err != nil || w.String() != m.bytes {
			t.Errorf("%s: wrote %q, %v; want %q", m.parser, w.String(), err, m.bytes)
		}
	}
}

func TestTruncatedMessages(t *testing.T) {
	for _, m := range messages {
		p := parserNamed(t, m.parser)
		for n := range len(m.bytes) {
			want := io.ErrUnexpectedEOF
			if n == 0 {
				want = io.EOF
			}
			if _, err := p.read(strings.NewReader(m.bytes[:n])); !errors.Is(err, want) {
				t.Errorf("%s %q: %v, want %v", m.parser, m.bytes[:n], err, want)
			}
		}
	}
}

func TestRefusedMessages(t *testing.T) {
	for _, c := range []struct {
		parser, bytes string
		want          error
	}{
		{"opening", "GET / HTTP/1.1\r\n", ErrVersion},
		{"opening", "\x16\x03\x01", ErrVersion},
		{"opening", "\x04\x01\x00\x50\xc0\x00\x02\x07" + name255 + "n\x00", ErrTooLong},
		{"opening", "\x04\x01\x00\x50\x00\x00\x00\x01\x00" + name255 + "n\x00", ErrTooLong},
		{"opening", "\x04\x01\x00\x50\x00\x00\x00\x01\x00\x00", ErrName},
		{"credentials", "\x05\x01a\x01b", ErrVersion},
		{"request5", "\x04\x01\x00\x50\xc0\x00\x02\x07\x00", ErrVersion},
		{"request5", "\x05\x01\x00\x02\xc0\x00\x02\x07\x00\x50", ErrAddressType},
		{"request5", "\x05\x01\x00\x03\x00\x00\x50", ErrName},
		{"request5", "\x05\x01\x00\x03\x0aevil\x00.test\x00\x50", ErrName},
	} {
		if _, err := parserNamed(t, c.parser).read(strings.NewReader(c.bytes)); !errors.Is(err, c.want) {
			t.Errorf("%s %q: %v, want %v", c.parser, c.bytes, err, c.want)
		}
	}
}

// A client of another protocol that sends one byte and waits is told apart at once.
func TestBadVersionNeedsOneByte(t *testing.T) {
	r := io.MultiReader(strings.NewReader("G"), iotest.ErrReader(errors.New("read on")))
	if _, err := ReadOpening(r); !errors.Is(err, ErrVersion) {
		t.Errorf("%v, want %v", err, ErrVersion)
	}
}

func TestRefusedToWrite(t *testing.T) {
	long := name255 + "n"
	for _, err := range []error{
		WriteGreeting(io.Discard, make([]Method, 256)...),
		WriteCredentials(io.Discard, Credentials{User: long}),
		WriteCredentials(io.Discard, Credentials{Password: long}),
		WriteRequest(io.Discard, Request{Version: V5, Addr: Addr{Name: long}}),
		WriteRequest(io.Discard, Request{Version: V4, Addr: Addr{Name: long}}),
	} {
		if !errors.Is(err, ErrTooLong) {
			t.Errorf("%v, want %v", err, ErrTooLong)
		}
	}
	for _, ip := range []netip.Addr{ip6, netip.MustParseAddr("0.0.0.9")} {
		err := WriteRequest(io.Discard, Request{Version: V4, Addr: Addr{IP: ip}})
		if !errors.Is(err, ErrAddressType) {
			t.Errorf("SOCKS 4 %v: %v, want %v", ip, err, ErrAddressType)
		}
	}
	err := WriteRequest(io.Discard, Request{Version: V4, UserID: "a\x00b", Addr: Addr{IP: ip4}})
	if !errors.Is(err, ErrName) {
		t.Errorf("%v, want %v", err, ErrName)
	}
}

// No input makes a reader panic, read past 4 names' worth of bytes, or go on
// after it has failed.
func TestRandomBytes(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 20000 {
		b := make([]byte, random.IntN(64))
		for i := range b {
			b[i] = byte(random.IntN(256))
		}
		if len(b) > 0 && random.IntN(4) > 0 {
			b[0] = []byte{0, 1, 4, 5}[random.IntN(4)]
		}
		for _, p := range parsers {
			p.check(t, b)
		}
	}
}

// check holds p to its properties on any input: it takes no more than its
// message, and what it accepts prints back to what reads the same.
func (p parser) check(t *testing.T, b []byte) {
	t.Helper()
	r := bytes.NewReader(b)
	v, err := p.read(r)
	if err != nil {
		return
	}
	taken := b[:len(b)-r.Len()]
	var w bytes.Buffer
	if err := p.write(&w, v); err != nil {
		t.Fatalf("%s %q: cannot print %+v: %v", p.name, b, v, err)
	}
	if w.Len() != len(taken) {
		t.Fatalf("%s: took %q, printed %q", p.name, taken, w.Bytes())
	}
	again, err := p.read(&w)
	if err != nil || !reflect.DeepEqual(again, v) {
		t.Fatalf("%s %q: %+v prints as what reads %+v, %v", p.name, b, v, again, err)
	}
}

func fuzz(f *testing.F, name string) {
	f.Helper()
	p := parserNamed(f, name)
	for _, m := range messages {
		if m.parser == name {
			f.Add([]byte(m.bytes))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) { p.check(t, b) })
}

func FuzzReadOpening(f *testing.F)     { fuzz(f, "opening") }
func FuzzReadMethod(f *testing.F)      { fuzz(f, "method") }
func FuzzReadCredentials(f *testing.F) { fuzz(f, "credentials") }
func FuzzReadAuth(f *testing.F)        { fuzz(f, "auth") }
func FuzzReadRequest(f *testing.F)     { fuzz(f, "request5") }
func FuzzReadReply5(f *testing.F)      { fuzz(f, "reply5") }
func FuzzReadReply4(f *testing.F)      { fuzz(f, "reply4") }

func TestAddrString(t *testing.T) {
	for want, a := range map[string]Addr{
		"example.org:80":     {Name: "example.org", Port: 80},
		"192.0.2.7:80":       AddrOf(netip.AddrPortFrom(ip4, 80)),
		"[2001:db8::7]:1080": AddrOf(netip.AddrPortFrom(ip6, 1080)),
	} {
		if a.String() != want {
			t.Errorf("%q, want %q", a.String(), want)
		}
	}
}
