package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"

	"usher/proxy/socks"
)

// target is what clients connect to through the proxies. The first byte that
// a client sends says what for.
type target struct {
	addr socks.Addr
	echo socks.Addr // of datagrams
}

const (
	toEcho   = 'e'
	toOnce   = 'o' // echoes what comes first, and ends
	toSink   = 's' // reads all, and ends
	toSource = 'd' // sends until it is broken
)

func startTarget() (*target, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go serveTarget(conn.(*net.TCPConn))
		}
	}()
	echo, err := startEcho()
	return &target{socks.AddrOf(ln.Addr().(*net.TCPAddr).AddrPort()), echo}, err
}

func serveTarget(c *net.TCPConn) {
	defer c.Close()
	var kind [1]byte
	if _, err := io.ReadFull(c, kind[:]); err != nil {
		return
	}
	buffer := make([]byte, 16<<10)
	if kind[0] == toSink || kind[0] == toSource {
		buffer = make([]byte, 256<<10)
	}
	for {
		n := len(buffer)
		var err error
		if kind[0] != toSource {
			if n, err = c.Read(buffer); err != nil {
				return
			}
		}
		if kind[0] == toSink {
			continue
		}
		if _, err := c.Write(buffer[:n]); err != nil || kind[0] == toOnce {
			return
		}
	}
}

// dial connects to the target through the proxy, as a user unless that is "".
func (t *target) dial(p *process, user string, kind byte) (*net.TCPConn, error) {
	conn, err := net.Dial("tcp", p.addr)
	if err != nil {
		return nil, err
	}
	c := conn.(*net.TCPConn)
	if !p.plain {
		if _, err := request(c, user, socks.Connect, t.addr); err != nil {
			c.Close()
			return nil, err
		}
	}
	if _, err := c.Write([]byte{kind}); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// request negotiates and asks.
func request(c *net.TCPConn, user string, command socks.Command, a socks.Addr) (socks.Reply, error) {
	if err := logIn(c, user); err != nil {
		return socks.Reply{}, err
	}
	if err := socks.WriteRequest(c, socks.Request{Version: socks.V5, Command: command, Addr: a}); err != nil {
		return socks.Reply{}, err
	}
	reply, err := socks.ReadReply(c, socks.V5)
	if err == nil && reply.Code != socks.Succeeded {
		err = fmt.Errorf("reply %d", reply.Code)
	}
	return reply, err
}

// logIn offers the one method that the proxy is to take.
func logIn(c *net.TCPConn, user string) error {
	method := socks.NoAuth
	if user != "" {
		method = socks.Username
	}
	if err := socks.WriteGreeting(c, method); err != nil {
		return err
	}
	if got, err := socks.ReadMethod(c); err != nil || got != method {
		return fmt.Errorf("method %d, %w; want %d", got, err, method)
	}
	if user == "" {
		return nil
	}
	if err := socks.WriteCredentials(c, socks.Credentials{User: user, Password: password}); err != nil {
		return err
	}
	if ok, err := socks.ReadAuth(c); err != nil || !ok {
		return fmt.Errorf("%s was let in: %t, %w", user, ok, err)
	}
	return nil
}

// echo sends n bytes and reads them back.
func echo(c *net.TCPConn, n int) error {
	b := make([]byte, n)
	if _, err := c.Write(b); err != nil {
		return err
	}
	_, err := io.ReadFull(c, b)
	return err
}

// ended waits for the target's end.
func ended(c *net.TCPConn) error {
	n, err := c.Read(make([]byte, 1))
	if !errors.Is(err, io.EOF) {
		return fmt.Errorf("read %d, %w; want the end", n, err)
	}
	return nil
}

// sessions opens n sessions of nobody, see sessionsOf.
func (t *target) sessions(p *process, clients, n int) error {
	return t.sessionsOf(p, clients, n, func(int) string { return "" })
}

// sessionsOf opens n sessions, each with one byte there and back, by so many
// clients at a time. user says whose each one is. The target ends them: who does waits for a minute (RFC
// 9293, TIME-WAIT), and ports would run out anywhere else.
func (t *target) sessionsOf(p *process, clients, n int, user func(i int) string) error {
	var begun atomic.Int64
	return each(clients, func() error {
		for {
			i := int(begun.Add(1)) - 1
			if i >= n {
				return nil
			}
			c, err := t.dial(p, user(i), toOnce)
			if err != nil {
				return err
			}
			if err = echo(c, 1); err == nil {
				err = ended(c)
			}
			c.Close()
			if err != nil {
				return err
			}
		}
	})
}

// roundTrips makes n round trips of 64 bytes, over so many sessions at a time.
func (t *target) roundTrips(p *process, sessions, n int) error {
	return each(sessions, func() error {
		c, err := t.dial(p, "", toEcho)
		if err != nil {
			return err
		}
		defer c.Close()
		for range n / sessions {
			if err := echo(c, 64); err != nil {
				return err
			}
		}
		return nil
	})
}

// upload moves n bytes to the target, over so many sessions at a time. It
// returns when the target has them.
func (t *target) upload(p *process, streams, n int) error {
	return each(streams, func() error {
		c, err := t.dial(p, "", toSink)
		if err != nil {
			return err
		}
		defer c.Close()
		buffer := make([]byte, 256<<10)
		for left := n / streams; left > 0; left -= len(buffer) {
			if _, err := c.Write(buffer[:min(left, len(buffer))]); err != nil {
				return err
			}
		}
		if err := c.CloseWrite(); err != nil {
			return err
		}
		return ended(c)
	})
}

// download moves n bytes from the target.
func (t *target) download(p *process, streams, n int) error {
	return each(streams, func() error {
		c, err := t.dial(p, "", toSource)
		if err != nil {
			return err
		}
		defer c.Close()
		buffer := make([]byte, 256<<10)
		for left := n / streams; left > 0; {
			got, err := c.Read(buffer)
			if err != nil {
				return err
			}
			left -= got
		}
		return nil
	})
}

// each runs f so many times at once and returns an error of one of them.
func each(n int, f func() error) error {
	var all sync.WaitGroup
	errs := make(chan error, n)
	for range n {
		all.Go(func() {
			if err := f(); err != nil {
				errs <- err
			}
		})
	}
	all.Wait()
	select {
	case err := <-errs:
		return err
	default:
		return nil
	}
}
