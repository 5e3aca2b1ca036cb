package socks

import (
	"fmt"
	"io"
)

// Method is an authentication method of SOCKS 5 (RFC 1928 section 3).
type Method byte

const (
	NoAuth       Method = 0x00
	Username     Method = 0x02 // RFC 1929
	NoAcceptable Method = 0xFF // the server's answer if it takes none of those offered
)

// Opening is the first message of a client: the methods that a SOCKS 5 client
// offers, or the whole request of a SOCKS 4 client.
type Opening struct {
	Version Version
	Methods []Method // SOCKS 5; may be empty
	Request Request  // SOCKS 4
}

// ReadOpening reads the first message.
//
// With SOCKS 4 the error may be ErrName or ErrTooLong, with Version set.
func ReadOpening(r io.Reader) (Opening, error) {
	var b [2]byte
	if err := readVersion(r, b[:], V4, V5); err != nil {
		return Opening{}, err
	}
	o := Opening{Version: Version(b[0])}
	var err error
	if o.Version == V4 {
		o.Request, err = readRequest4(r, Command(b[1]))
	} else {
		o.Methods, err = readMethods(r, int(b[1]))
	}
	if err != nil {
		return Opening{Version: o.Version}, err
	}
	return o, nil
}

// readMethods reads what follows the number of methods:
//
//	VER NMETHODS METHODS
//	 1     1      0-255
func readMethods(r io.Reader, n int) ([]Method, error) {
	b := make([]byte, n)
	if err := readFull(r, b); err != nil {
		return nil, err
	}
	methods := make([]Method, n)
	for i, m := range b {
		methods[i] = Method(m)
	}
	return methods, nil
}

// WriteGreeting writes a SOCKS 5 client's first message.
func WriteGreeting(w io.Writer, methods ...Method) error {
	if len(methods) > 255 {
		return fmt.Errorf("%w: %d methods", ErrTooLong, len(methods))
	}
	b := make([]byte, 0, 2+len(methods))
	b = append(b, byte(V5), byte(len(methods)))
	for _, m := range methods {
		b = append(b, byte(m))
	}
	return write(w, b)
}

// WriteMethod writes the server's choice, NoAcceptable included.
func WriteMethod(w io.Writer, m Method) error {
	return write(w, []byte{byte(V5), byte(m)})
}

// ReadMethod reads the server's choice.
func ReadMethod(r io.Reader) (Method, error) {
	var b [2]byte
	if err := readVersion(r, b[:], V5); err != nil {
		return 0, err
	}
	return Method(b[1]), nil
}
