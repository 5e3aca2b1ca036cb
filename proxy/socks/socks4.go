package socks

import (
	"encoding/binary"
	"fmt"
	"io"
	"net/netip"
	"strings"
)

// readRequest4 reads what follows version and command:
//
//	VER CMD PORT ADDR USERID NUL [NAME NUL]
//	 1   1   2    4   0-255   1   1-255  1
//
// An address 0.0.0.x with x != 0 says that a name follows (SOCKS 4a).
func readRequest4(r io.Reader, command Command) (Request, error) {
	var b [6]byte
	if err := readFull(r, b[:]); err != nil {
		return Request{}, err
	}
	q := Request{Version: V4, Command: command}
	q.Addr.Port = binary.BigEndian.Uint16(b[:])
	ip := [4]byte(b[2:])
	var err error
	if q.UserID, err = readTerminated(r); err != nil {
		return Request{}, fmt.Errorf("user id: %w", err)
	}
	if !marksName(ip) {
		q.Addr.IP = netip.AddrFrom4(ip)
		return q, nil
	}
	if q.Addr.Name, err = readTerminated(r); err != nil {
		return Request{}, fmt.Errorf("name: %w", err)
	}
	return q, checkName(q.Addr.Name)
}

// marksName reports whether an address says that a name follows.
func marksName(ip [4]byte) bool {
	return ip[0] == 0 && ip[1] == 0 && ip[2] == 0 && ip[3] != 0
}

// readTerminated reads up to a NUL, byte by byte because nothing else tells
// where the message ends.
func readTerminated(r io.Reader) (string, error) {
	var b [MaxName + 1]byte
	for n := range b {
		if err := readFull(r, b[n:n+1]); err != nil {
			return "", err
		}
		if b[n] == 0 {
			return string(b[:n]), nil
		}
	}
	return "", ErrTooLong
}

// writeRequest4 writes a SOCKS 4 request, with a name a SOCKS 4a one.
func writeRequest4(w io.Writer, q Request) error {
	if len(q.UserID) > MaxName || len(q.Addr.Name) > MaxName {
		return fmt.Errorf("%w: user id or name", ErrTooLong)
	}
	if strings.IndexByte(q.UserID, 0) >= 0 {
		return fmt.Errorf("user id: %w", ErrName)
	}
	ip := [4]byte{0, 0, 0, 1}
	if q.Addr.Name == "" {
		if !q.Addr.IP.Is4() || marksName(q.Addr.IP.As4()) {
			return fmt.Errorf("%w: SOCKS 4 cannot carry %v", ErrAddressType, q.Addr.IP)
		}
		ip = q.Addr.IP.As4()
	} else if err := checkName(q.Addr.Name); err != nil {
		return err
	}
	b := binary.BigEndian.AppendUint16([]byte{byte(V4), byte(q.Command)}, q.Addr.Port)
	b = append(b, ip[:]...)
	b = append(b, q.UserID...)
	b = append(b, 0)
	if q.Addr.Name != "" {
		b = append(b, q.Addr.Name...)
		b = append(b, 0)
	}
	return write(w, b)
}
