package socks

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
)

// Version is the first byte of a SOCKS message.
type Version byte

const (
	V4 Version = 4
	V5 Version = 5
)

// Command is what a request asks for (RFC 1928 section 4). Readers return unknown
// values as well, because the server answers them.
type Command byte

const (
	Connect      Command = 1
	Bind         Command = 2
	UDPAssociate Command = 3 // SOCKS 5 only
)

// MaxName is the longest name, user id, user name and password, in bytes.
const MaxName = 255

// VersionError is an ErrVersion. Got has the bytes that were read, one at least.
type VersionError struct{ Got []byte }

func (e *VersionError) Error() string   { return fmt.Sprintf("%v: %#02x", ErrVersion, e.Got[0]) }
func (e *VersionError) Is(t error) bool { return t == ErrVersion }

// Errors of the format.
var (
	ErrVersion     = errors.New("the first byte is not the version expected here")
	ErrAddressType = errors.New("unknown address type")
	ErrName        = errors.New("a name is empty or contains a NUL byte")
	ErrTooLong     = errors.New("a field is longer than 255 bytes")
)

// Addr is a name or an IP address, and a port.
type Addr struct {
	Name string     // 1 to MaxName bytes without NUL; "" if IP is set
	IP   netip.Addr // without zone
	Port uint16
}

// AddrOf returns the Addr of an IP address and port.
func AddrOf(a netip.AddrPort) Addr { return Addr{IP: a.Addr(), Port: a.Port()} }

// String returns host:port, as in URLs. A name is returned unchanged. The caller
// escapes it before printing.
func (a Addr) String() string {
	if a.Name != "" {
		return fmt.Sprintf("%s:%d", a.Name, a.Port)
	}
	return netip.AddrPortFrom(a.IP, a.Port).String()
}

// Request asks for a connection, a listener or a UDP association.
type Request struct {
	Version Version
	Command Command
	Addr    Addr
	UserID  string // SOCKS 4: a name that the client claims without proof
}

// checkName refuses names that cannot exist. For C libraries and loggers, a NUL would
// end the name, and would so hide the rest from a rule.
func checkName(name string) error {
	if name == "" || strings.IndexByte(name, 0) >= 0 {
		return ErrName
	}
	return nil
}

// readFull fills b. Unlike io.ReadFull it knows that a message has begun, so
// an end here is unexpected.
func readFull(r io.Reader, b []byte) error {
	_, err := io.ReadFull(r, b)
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// readVersion fills b, the shortest beginning of any message, and checks its first byte
// as soon as it is there: it does not wait for a client of another protocol.
func readVersion(r io.Reader, b []byte, allowed ...Version) error {
	n, err := io.ReadAtLeast(r, b, 1)
	if err != nil {
		return err
	}
	for _, v := range allowed {
		if b[0] == byte(v) {
			return readFull(r, b[n:])
		}
	}
	return &VersionError{Got: b[:n]}
}

// write writes a whole message with one Write.
func write(w io.Writer, b []byte) error {
	_, err := w.Write(b)
	return err
}
