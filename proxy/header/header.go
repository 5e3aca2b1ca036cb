// Package header reads the PROXY protocol header, version 1 or 2, in which a balancer
// names its client (https://www.haproxy.org/download/2.6/doc/proxy-protocol.txt). It
// knows no session: the caller decides whether to trust the sender, and what the header
// means.
package header

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"syscall"

	proxyproto "github.com/pires/go-proxyproto"
)

// Lengths of headers, by the specification.
const (
	minV1 = 15  // "PROXY UNKNOWN\r\n"
	maxV1 = 107 // with the terminating CRLF
	minV2 = 16  // signature, version and command, family, length
)

// PeekLen is how many bytes Begins needs to be sure.
const PeekLen = minV1

// ErrFamily means that a header describes something other than TCP over IPv4 or IPv6.
var ErrFamily = errors.New("the header is not about TCP over IPv4 or IPv6")

// nginx behind a balancer of version 2 writes TCP6 if either address is IPv6, and
// the other one as IPv4.
func init() { proxyproto.V1AcceptIPv4InTCP6 = true }

// Kind is the kind of a header.
type Kind int

const (
	Client  Kind = iota // a client, by its addresses
	Local               // version 2, LOCAL: the balancer speaks for itself (section 2.2)
	Unknown             // version 1, UNKNOWN: a client that the balancer cannot describe (section 2.1)
)

// Header is what a balancer says about a connection.
type Header struct {
	Kind     Kind
	From, To netip.AddrPort // of a Client: its address and the one that it connected to; IPv4 unmapped, no zones
}

// Read reads a header from r, and nothing after it. If the connection ends or is reset
// before the first byte, the error is io.EOF. If it ends within the header, it is
// io.ErrUnexpectedEOF.
func Read(r io.Reader) (Header, error) {
	h, err := read(r)
	if err != nil {
		return Header{}, err
	}
	if h.Command.IsLocal() { // true for UNKNOWN as well
		if h.Version == 2 {
			return Header{Kind: Local}, nil
		}
		return Header{Kind: Unknown}, nil
	}
	from, to, ok := h.TCPAddrs()
	if !ok {
		return Header{}, ErrFamily
	}
	return Header{From: addrPort(from), To: addrPort(to)}, nil
}

func addrPort(a *net.TCPAddr) netip.AddrPort {
	ap := a.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port())
}

// mayBegin reports whether a header can begin with b.
func mayBegin(b byte) bool { return b == proxyproto.SIGV1[0] || b == proxyproto.SIGV2[0] }

// Begins reports whether b begins like a header. PeekLen bytes are enough.
func Begins(b []byte) bool {
	return bytes.HasPrefix(b, []byte("PROXY ")) || bytes.HasPrefix(b, proxyproto.SIGV2)
}

// read reads exactly the header from r, and lets the library parse it. The library
// alone would read ahead.
func read(r io.Reader) (*proxyproto.Header, error) {
	head := make([]byte, minV1, 256)
	n, err := io.ReadAtLeast(r, head, 1)
	if errors.Is(err, syscall.ECONNRESET) {
		return nil, io.EOF
	}
	if err != nil {
		return nil, err
	}
	if !mayBegin(head[0]) {
		return nil, proxyproto.ErrNoProxyProtocol
	}
	if _, err := io.ReadFull(r, head[n:]); err != nil {
		return nil, noEOF(err)
	}
	if head[0] == proxyproto.SIGV1[0] {
		head, err = restV1(r, head)
	} else {
		head, err = restV2(r, head)
	}
	if err != nil {
		return nil, noEOF(err)
	}
	return proxyproto.Read(bufio.NewReader(bytes.NewReader(head)))
}

// restV1 reads to the end of the line, byte by byte, because only the line end shows
// where the header ends.
func restV1(r io.Reader, head []byte) ([]byte, error) {
	for head[len(head)-1] != '\n' {
		if len(head) == maxV1 {
			return nil, proxyproto.ErrVersion1HeaderTooLong
		}
		head = append(head, 0)
		if _, err := io.ReadFull(r, head[len(head)-1:]); err != nil {
			return nil, err
		}
	}
	return head, nil
}

// restV2 reads the length that the header states.
func restV2(r io.Reader, head []byte) ([]byte, error) {
	head = head[:minV2]
	if _, err := io.ReadFull(r, head[minV1:]); err != nil {
		return nil, err
	}
	if !bytes.HasPrefix(head, proxyproto.SIGV2) {
		return nil, proxyproto.ErrNoProxyProtocol
	}
	length := binary.BigEndian.Uint16(head[minV2-2:])
	if length > proxyproto.MaxV2HeaderSize {
		return nil, proxyproto.ErrInvalidLength
	}
	head = append(head, make([]byte, length)...)
	_, err := io.ReadFull(r, head[minV2:])
	return head, err
}

// noEOF turns io.EOF within a header into io.ErrUnexpectedEOF.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
