package main

import (
	"errors"
	"io"
	"net"
	"slices"
	"sync"

	"usher/proxy/socks"
)

// serveBare is about the least that is a SOCKS 5 proxy: no rules, no limits, no
// log, no deadlines, any password, and io.Copy both ways, which splices. It says what Go and
// the system cost.
func serveBare(listen string) error {
	ln, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	for {
		conn, err := ln.Accept()
		if err != nil {
			return err
		}
		go bareSession(conn.(*net.TCPConn))
	}
}

// bareSession ends before its directions do, so that they have small stacks.
func bareSession(client *net.TCPConn) {
	target, err := bareOpen(client)
	if err != nil {
		client.Close()
		return
	}
	up, down := make(chan struct{}), make(chan struct{})
	var once sync.Once
	direction := func(from, to *net.TCPConn, over chan struct{}) {
		_, _ = io.Copy(to, from) // whatever breaks it, it is over
		_ = to.CloseWrite()
		close(over)
		<-up
		<-down
		once.Do(func() { client.Close(); target.Close() })
	}
	go direction(client, target, up)
	go direction(target, client, down)
}

func bareOpen(client *net.TCPConn) (*net.TCPConn, error) {
	opening, err := socks.ReadOpening(client)
	if err != nil {
		return nil, err
	}
	if opening.Version != socks.V5 {
		return nil, errors.New("not SOCKS 5")
	}
	if slices.Contains(opening.Methods, socks.Username) {
		err = bareLogIn(client)
	} else {
		err = socks.WriteMethod(client, socks.NoAuth)
	}
	if err != nil {
		return nil, err
	}
	request, err := socks.ReadRequest(client)
	if err != nil {
		return nil, err
	}
	conn, err := net.Dial("tcp", request.Addr.String())
	if err != nil {
		return nil, err
	}
	target := conn.(*net.TCPConn)
	bound := socks.AddrOf(target.LocalAddr().(*net.TCPAddr).AddrPort())
	return target, socks.WriteReply(client, socks.Reply{Version: socks.V5, Code: socks.Succeeded, Addr: bound})
}

func bareLogIn(client *net.TCPConn) error {
	if err := socks.WriteMethod(client, socks.Username); err != nil {
		return err
	}
	if _, err := socks.ReadCredentials(client); err != nil {
		return err
	}
	return socks.WriteAuth(client, true)
}
