package socks

import (
	"encoding/binary"
	"fmt"
	"io"
	"net/netip"
)

// Address types of RFC 1928 section 5.
const (
	typeIPv4 = 1
	typeName = 3
	typeIPv6 = 4
)

// ReadRequest reads a SOCKS 5 request, which has the form of a reply:
//
//	VER CMD RSV ATYP ADDR      PORT
//	 1   1   1   1   4|1+n|16   2
//
// The reserved byte is ignored. On ErrName and ErrAddressType the returned request has
// its command; after ErrAddressType the length of the message is unknown, so the
// connection cannot be read any further.
func ReadRequest(r io.Reader) (Request, error) {
	code, addr, err := readMessage5(r)
	return Request{Version: V5, Command: Command(code), Addr: addr}, err
}

// WriteRequest writes a client's request, in the version that it names.
func WriteRequest(w io.Writer, q Request) error {
	if q.Version == V4 {
		return writeRequest4(w, q)
	}
	return writeMessage5(w, byte(q.Command), q.Addr)
}

// readMessage5 reads a request or a reply. The first five bytes determine its length.
// The shortest form has more.
func readMessage5(r io.Reader) (code byte, addr Addr, err error) {
	b := make([]byte, 5, 4+16+2)
	if err := readVersion(r, b, V5); err != nil {
		return 0, Addr{}, err
	}
	code = b[1]
	var end int // where the address ends and the port begins
	switch b[3] {
	case typeIPv4:
		end = 4 + 4
	case typeIPv6:
		end = 4 + 16
	case typeName:
		end = 4 + 1 + int(b[4])
	default:
		return code, Addr{}, fmt.Errorf("%w %#02x", ErrAddressType, b[3])
	}
	b = append(b, make([]byte, end+2-len(b))...)
	if err := readFull(r, b[5:]); err != nil {
		return code, Addr{}, err
	}
	addr.Port = binary.BigEndian.Uint16(b[end:])
	if b[3] == typeName {
		addr.Name = string(b[5:end])
		return code, addr, checkName(addr.Name)
	}
	addr.IP, _ = netip.AddrFromSlice(b[4:end])
	return code, addr, nil
}

// writeMessage5 writes a request or a reply.
func writeMessage5(w io.Writer, code byte, addr Addr) error {
	b := append(make([]byte, 0, 4+16+2), byte(V5), code, 0) // a name needs more
	b, err := appendAddr(b, addr)
	if err != nil {
		return err
	}
	return write(w, b)
}

// appendAddr appends address type, address and port. The zero Addr is written
// as 0.0.0.0:0.
func appendAddr(b []byte, addr Addr) ([]byte, error) {
	switch {
	case addr.Name != "":
		if len(addr.Name) > MaxName {
			return nil, fmt.Errorf("%w: name", ErrTooLong)
		}
		if err := checkName(addr.Name); err != nil {
			return nil, err
		}
		b = append(b, typeName, byte(len(addr.Name)))
		b = append(b, addr.Name...)
	case addr.IP.Is6():
		ip := addr.IP.As16()
		b = append(append(b, typeIPv6), ip[:]...)
	case addr.IP.Is4():
		ip := addr.IP.As4()
		b = append(append(b, typeIPv4), ip[:]...)
	default:
		b = append(b, typeIPv4, 0, 0, 0, 0)
	}
	return binary.BigEndian.AppendUint16(b, addr.Port), nil
}
