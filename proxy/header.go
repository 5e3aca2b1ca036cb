package proxy

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"time"

	proxyproto "github.com/pires/go-proxyproto"
	"golang.org/x/sys/unix"
)

// headerTimeout is how long a balancer may take to send its PROXY header.
const headerTimeout = 3 * time.Second

// Lengths of PROXY headers, by their specification.
const (
	minHeaderV1 = 15  // "PROXY UNKNOWN\r\n"
	maxHeaderV1 = 107 // with the terminating CRLF
	minHeaderV2 = 16  // signature, version and command, family, length
)

// identify finds out who the client is and what it dialled: from a trusted
// balancer's PROXY header, else from the connection itself.
//
// LOCAL, of version 2, says that the balancer speaks for itself, and that the
// receiver must use the real addresses of the connection (PROXY protocol,
// section 2.2). It is a health check for as long as it asks for nothing, see
// isCheck, and a client at the balancer's own address from then on.
//
// Version 1 has no such word: its UNKNOWN stands for a client of another family
// as well (section 2.1). Its connection is a client at the balancer's own
// address from the beginning.
func (s *session) identify() error {
	s.from, s.to = addrPort(s.client.RemoteAddr()), addrPort(s.client.LocalAddr())
	if !s.server.trusted(s.from.Addr()) {
		return nil
	}
	s.setDeadline(s.began.Add(headerTimeout))
	h, err := readHeader(s.client)
	switch {
	case errors.Is(err, io.EOF):
		s.check = true // connected and closed: a balancer's way to see a port
		return errNoGreeting
	case err != nil:
		return fmt.Errorf("%w: %w", errHeader, err)
	case h.Command.IsLocal(): // the library calls UNKNOWN so, too
		s.check = h.Version == 2
		return nil
	}
	source, destination, ok := h.TCPAddrs()
	if !ok {
		return fmt.Errorf("%w: it is not about TCP over IPv4 or IPv6", errHeader)
	}
	s.from, s.to = addrPort(source), addrPort(destination)
	return nil
}

// trusted reports whether a is a balancer.
func (s *Server) trusted(a netip.Addr) bool {
	for _, p := range s.opts.TrustedProxies {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// readHeader reads a PROXY header, of version 1 or 2, and nothing after it.
// The library reads ahead, so the header is cut out here and parsed there. An
// end before the first byte is io.EOF.
func readHeader(r io.Reader) (*proxyproto.Header, error) {
	head := make([]byte, minHeaderV1, 256)
	n, err := io.ReadAtLeast(r, head, 1)
	if err != nil {
		return nil, err
	}
	if !startsHeader(head[0]) {
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

// sentHeader reports whether the client has sent a PROXY header, the beginning
// of which was read. It waits for none: balancers send theirs in one piece.
func (s *session) sentHeader(read []byte) bool {
	if !startsHeader(read[0]) {
		return false
	}
	raw, err := s.client.SyscallConn()
	if err != nil {
		return false
	}
	var begins [minHeaderV1]byte
	n := copy(begins[:], read)
	_ = raw.Control(func(fd uintptr) { // what does not come is not there
		more, _, err := unix.Recvfrom(int(fd), begins[n:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		if err == nil {
			n += more
		}
	})
	return bytes.HasPrefix(begins[:n], []byte("PROXY ")) || bytes.HasPrefix(begins[:n], proxyproto.SIGV2)
}

// startsHeader reports whether a PROXY header can begin with b.
func startsHeader(b byte) bool {
	return b == proxyproto.SIGV1[0] || b == proxyproto.SIGV2[0]
}

// restV1 reads up to the line's end, byte by byte, as nothing else tells
// where it is.
func restV1(r io.Reader, head []byte) ([]byte, error) {
	for head[len(head)-1] != '\n' {
		if len(head) == maxHeaderV1 {
			return nil, proxyproto.ErrVersion1HeaderTooLong
		}
		head = append(head, 0)
		if _, err := io.ReadFull(r, head[len(head)-1:]); err != nil {
			return nil, err
		}
	}
	return head, nil
}

// restV2 reads as much as the header says it is long.
func restV2(r io.Reader, head []byte) ([]byte, error) {
	head = head[:minHeaderV2]
	if _, err := io.ReadFull(r, head[minHeaderV1:]); err != nil {
		return nil, err
	}
	if !bytes.HasPrefix(head, proxyproto.SIGV2) {
		return nil, proxyproto.ErrNoProxyProtocol
	}
	length := binary.BigEndian.Uint16(head[minHeaderV2-2:])
	if length > proxyproto.MaxV2HeaderSize {
		return nil, proxyproto.ErrInvalidLength
	}
	head = append(head, make([]byte, length)...)
	_, err := io.ReadFull(r, head[minHeaderV2:])
	return head, err
}

// noEOF makes an end within a header unlike one before it.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
