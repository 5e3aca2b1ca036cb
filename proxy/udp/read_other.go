//go:build !linux

package udp

// each calls handle for each datagram that arrives, until the socket is closed or
// broken.
func (u *socket) each(headroom int, handle handler) error { return u.oneByOne(headroom, handle) }
