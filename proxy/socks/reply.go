package socks

import (
	"encoding/binary"
	"fmt"
	"io"
	"net/netip"
)

// Code is the reply code, with the values of RFC 1928 section 6. In SOCKS 4 Succeeded
// is written as 90 and everything else as 91.
type Code byte

const (
	Succeeded           Code = 0
	GeneralFailure      Code = 1 // a problem of the server
	NotAllowed          Code = 2 // by the rule set
	NetworkUnreachable  Code = 3
	HostUnreachable     Code = 4 // also: the name does not resolve
	ConnectionRefused   Code = 5
	TTLExpired          Code = 6 // also: the connection timed out
	CommandNotSupported Code = 7
	AddressNotSupported Code = 8
)

// Codes of SOCKS 4.
const (
	granted4  = 90
	rejected4 = 91
)

// Reply answers a request. Addr is BND.ADDR and BND.PORT: where the server listens, or
// from where it connects. The zero Addr is enough for failures.
type Reply struct {
	Version Version
	Code    Code
	Addr    Addr
}

// WriteReply writes p in the version that it names. SOCKS 4 has no room for
// an IPv6 address or a name and carries 0.0.0.0 instead.
func WriteReply(w io.Writer, p Reply) error {
	if p.Version != V4 {
		return writeMessage5(w, byte(p.Code), p.Addr)
	}
	code := byte(rejected4)
	if p.Code == Succeeded {
		code = granted4
	}
	b := binary.BigEndian.AppendUint16([]byte{0, code}, p.Addr.Port)
	var ip [4]byte
	if a := p.Addr.IP.Unmap(); a.Is4() {
		ip = a.As4()
	}
	return write(w, append(b, ip[:]...))
}

// ReadReply reads a server's answer to a request of version v. Every answer of SOCKS 4
// but 90 becomes GeneralFailure.
func ReadReply(r io.Reader, v Version) (Reply, error) {
	if v != V4 {
		code, addr, err := readMessage5(r)
		return Reply{Version: V5, Code: Code(code), Addr: addr}, err
	}
	var b [8]byte
	if err := readVersion(r, b[:], 0); err != nil {
		return Reply{}, err
	}
	p := Reply{Version: V4, Code: GeneralFailure}
	if b[1] == granted4 {
		p.Code = Succeeded
	} else if b[1] < granted4 || b[1] > 93 {
		return Reply{}, fmt.Errorf("%w: SOCKS 4 code %d", ErrVersion, b[1])
	}
	p.Addr = Addr{IP: netip.AddrFrom4([4]byte(b[4:])), Port: binary.BigEndian.Uint16(b[2:])}
	return p, nil
}
