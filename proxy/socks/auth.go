package socks

import (
	"fmt"
	"io"
)

// authVersion is the version of RFC 1929's negotiation, not of SOCKS.
const authVersion Version = 1

// Credentials are a user name and a password (RFC 1929 section 2). Both may be empty.
// The server decides whether that is right.
type Credentials struct {
	User, Password string // 0 to MaxName bytes, any value
}

// ReadCredentials reads
//
//	VER ULEN UNAME PLEN PASSWD
//	 1   1   0-255  1   0-255
func ReadCredentials(r io.Reader) (Credentials, error) {
	var b [2]byte
	if err := readVersion(r, b[:], authVersion); err != nil {
		return Credentials{}, err
	}
	user := make([]byte, int(b[1])+1) // with PLEN: the shortest message has it too
	if err := readFull(r, user); err != nil {
		return Credentials{}, err
	}
	plen := user[len(user)-1]
	password := make([]byte, plen)
	if err := readFull(r, password); err != nil {
		return Credentials{}, err
	}
	return Credentials{User: string(user[:len(user)-1]), Password: string(password)}, nil
}

// WriteCredentials writes a client's user name and password.
func WriteCredentials(w io.Writer, c Credentials) error {
	if len(c.User) > MaxName || len(c.Password) > MaxName {
		return fmt.Errorf("%w: user name or password", ErrTooLong)
	}
	b := make([]byte, 0, 3+len(c.User)+len(c.Password))
	b = append(b, byte(authVersion), byte(len(c.User)))
	b = append(b, c.User...)
	b = append(b, byte(len(c.Password)))
	b = append(b, c.Password...)
	return write(w, b)
}

// WriteAuth writes whether the server accepts the credentials. After a failure the
// server closes the connection.
func WriteAuth(w io.Writer, ok bool) error {
	status := byte(1)
	if ok {
		status = 0
	}
	return write(w, []byte{byte(authVersion), status})
}

// ReadAuth reads whether the server accepts the credentials.
func ReadAuth(r io.Reader) (ok bool, err error) {
	var b [2]byte
	if err := readVersion(r, b[:], authVersion); err != nil {
		return false, err
	}
	return b[1] == 0, nil
}
