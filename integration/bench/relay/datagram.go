package main

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"time"

	"usher/proxy/socks"
)

// startEcho sends every datagram back.
func startEcho() (socks.Addr, error) {
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return socks.Addr{}, err
	}
	go func() {
		buffer := make([]byte, 64<<10)
		for {
			n, from, err := conn.ReadFromUDPAddrPort(buffer)
			if err != nil {
				return
			}
			_, _ = conn.WriteToUDPAddrPort(buffer[:n], from) // a lost one is sent again
		}
	}()
	return socks.AddrOf(conn.LocalAddr().(*net.UDPAddr).AddrPort()), nil
}

// datagrams sends n datagrams of so many bytes and awaits each one's echo, over so
// many associations at a time.
func (t *target) datagrams(p *process, associations, size, n int) error {
	return each(associations, func() error {
		conn, err := net.Dial("tcp", p.addr)
		if err != nil {
			return err
		}
		defer conn.Close()
		reply, err := request(conn.(*net.TCPConn), "", socks.UDPAssociate, socks.Addr{IP: netip.IPv4Unspecified()})
		if err != nil {
			return err
		}
		relay, err := net.Dial("udp", reply.Addr.String())
		if err != nil {
			return err
		}
		defer relay.Close()
		packet, err := socks.AppendUDPHeader(nil, t.echo)
		if err != nil {
			return err
		}
		packet = append(packet, make([]byte, size)...)
		buffer := make([]byte, 2*len(packet))
		for range n / associations {
			if err := exchange(relay, packet, buffer); err != nil {
				return err
			}
		}
		return nil
	})
}

// exchange sends a datagram until one comes back.
func exchange(relay net.Conn, packet, buffer []byte) error {
	for range 10 {
		if _, err := relay.Write(packet); err != nil {
			return err
		}
		if err := relay.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
			return err
		}
		_, err := relay.Read(buffer)
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
	}
	return errors.New("ten datagrams were lost in a row")
}
