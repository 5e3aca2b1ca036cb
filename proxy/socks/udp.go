package socks

import (
	"encoding/binary"
	"fmt"
	"io"
	"net/netip"
)

// MaxUDPHeader is the length of the longest header of a datagram, and
// MaxUDPHeaderIP of the longest one with an IP address.
const (
	MaxUDPHeader   = 4 + 1 + MaxName + 2
	MaxUDPHeaderIP = 4 + 16 + 2
)

// Datagram is a datagram between a SOCKS 5 client and its server (RFC 1928 section 7).
type Datagram struct {
	// Frag is 0 for a datagram that stands alone, and a position otherwise,
	// with the high bit set in the last fragment.
	Frag byte
	// Addr is the target in a client's datagram, the peer in a server's.
	Addr Addr
	// Data is the payload, 0 bytes or more.
	Data []byte
}

// ParseDatagram parses a datagram:
//
//	RSV FRAG ATYP ADDR      PORT DATA
//	 2   1    1   4|1+n|16   2    0-
//
// The reserved bytes are ignored. Data is a part of b. The error is io.ErrUnexpectedEOF
// for a header that is cut short, ErrAddressType or ErrName.
func ParseDatagram(b []byte) (Datagram, error) {
	if len(b) < 5 {
		return Datagram{}, io.ErrUnexpectedEOF
	}
	d := Datagram{Frag: b[2]}
	start := 4 // of the address
	var end int
	switch b[3] {
	case typeIPv4:
		end = start + 4
	case typeIPv6:
		end = start + 16
	case typeName:
		start = 5
		end = start + int(b[4])
	default:
		return Datagram{}, fmt.Errorf("%w %#02x", ErrAddressType, b[3])
	}
	if len(b) < end+2 {
		return Datagram{}, io.ErrUnexpectedEOF
	}
	if b[3] == typeName {
		d.Addr.Name = string(b[start:end])
		if err := checkName(d.Addr.Name); err != nil {
			return Datagram{}, err
		}
	} else {
		d.Addr.IP, _ = netip.AddrFromSlice(b[start:end])
	}
	d.Addr.Port = binary.BigEndian.Uint16(b[end:])
	d.Data = b[end+2:]
	return d, nil
}

// AppendUDPHeader appends to b the header of a datagram that stands alone;
// the payload follows it. The zero Addr is written as 0.0.0.0:0. The error is
// ErrTooLong, for a name.
func AppendUDPHeader(b []byte, a Addr) ([]byte, error) {
	return appendAddr(append(b, 0, 0, 0), a)
}

// UDPHeaderLen returns the length of the header that has the address ip.
func UDPHeaderLen(ip netip.Addr) int {
	if ip.Is6() {
		return MaxUDPHeaderIP
	}
	return 4 + 4 + 2
}
