package redistest

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// Fake answers commands as the test says, for answers that no real server gives. It
// serves until the listener is closed, at the latest at the end of the test. An empty
// answer ends the connection.
func Fake(t testing.TB, l net.Listener, answer func(command []string) string) {
	t.Helper()
	var serving sync.WaitGroup
	t.Cleanup(func() { l.Close(); serving.Wait() })
	serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { serveFake(c, answer) })
		}
	})
}

func serveFake(c net.Conn, answer func(command []string) string) {
	defer c.Close()
	in := bufio.NewReader(c)
	for {
		command, err := readCommand(in)
		if err != nil {
			return
		}
		reply := answer(command)
		if _, err := io.WriteString(c, reply); err != nil || reply == "" {
			return
		}
	}
}

// Loopback returns a listener on a free port.
func Loopback(t testing.TB) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// Ordinary answers the first commands on a connection as a normal server does, and all
// other commands with "".
func Ordinary(command []string) string {
	switch strings.ToUpper(command[0]) {
	case "HELLO":
		return "%1\r\n" + Bulk("server") + Bulk("redis")
	case "INFO":
		return Bulk("# Server\r\nredis_version:7.0.15\r\nmaster_replid:0123456789abcdef\r\nmaxmemory_policy:noeviction\r\n")
	case "HGETALL":
		return "%0\r\n"
	case "SELECT", "AUTH", "CLIENT":
		return "+OK\r\n"
	}
	return ""
}

// Bulk is a text as a reply.
func Bulk(text string) string { return fmt.Sprintf("$%d\r\n%s\r\n", len(text), text) }

func readCommand(in *bufio.Reader) ([]string, error) {
	n, err := readLength(in, '*')
	if err != nil {
		return nil, err
	}
	command := make([]string, n)
	for i := range command {
		length, err := readLength(in, '$')
		if err != nil {
			return nil, err
		}
		text := make([]byte, length+2)
		if _, err := io.ReadFull(in, text); err != nil {
			return nil, err
		}
		command[i] = string(text[:length])
	}
	return command, nil
}

func readLength(in *bufio.Reader, kind byte) (int, error) {
	line, err := in.ReadString('\n')
	if err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(strings.TrimSpace(line[1:]))
	if err != nil || line[0] != kind || n < 1 && kind == '*' {
		return 0, fmt.Errorf("redistest: %q begins no command", line)
	}
	return n, nil
}
