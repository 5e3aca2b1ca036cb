package integration

import (
	"bufio"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"testing"
	"time"
)

// Replies of RFC 1928 section 6, and what a client sees instead of a reply.
const (
	granted    = 0
	failure    = 1 // general failure: for a rule with a limit, the store is away
	notAllowed = 2 // by the rules, or a limit is reached
	noReply    = -1
	noMethod   = -2 // 05 FF, or RFC 1929 said no
)

// patience is the time limit for each step of a client. No step should take that long.
const patience = 30 * time.Second

// client says how to ask for a connection.
type client struct {
	proxy    string     // host:port of the proxy
	from     netip.Addr // source address, any if invalid
	user     string
	password string
}

// answer is the result of a request.
type answer struct {
	net.Conn                // granted: carries the target's bytes
	reply    int            // as above
	bound    netip.AddrPort // of a reply: BND.ADDR and BND.PORT
	err      error          // why there was no reply, for the messages of tests
}

// connect asks the proxy for target (host:port; a host that is not an address is sent
// as a name). It implements RFC 1928 and 1929 without Usher's code.
func (c client) connect(target string) answer { return c.command("connect", target) }

// command is connect for any of commands. The answer to BIND is the first reply.
func (c client) command(name, target string) answer {
	conn, err := c.dial()
	if err != nil {
		return answer{reply: noReply, err: err}
	}
	a := c.negotiate(conn, request(commands[name], target))
	if a.reply != granted {
		conn.Close()
		return a
	}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return answer{reply: noReply, err: err}
	}
	a.Conn = conn
	return a
}

// dial opens the TCP connection only, with a deadline of patience.
func (c client) dial() (net.Conn, error) {
	d := net.Dialer{Timeout: patience}
	if c.from.IsValid() {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(c.from, 0))
	}
	conn, err := d.Dial("tcp", c.proxy)
	if err != nil {
		return nil, err
	}
	return conn, conn.SetDeadline(time.Now().Add(patience))
}

// negotiate greets, and sends one request.
func (c client) negotiate(conn net.Conn, request []byte) answer {
	method := byte(0)
	if c.user != "" {
		method = 2
	}
	if _, err := conn.Write([]byte{5, 1, method}); err != nil {
		return answer{reply: noReply, err: err}
	}
	var chosen [2]byte
	if _, err := io.ReadFull(conn, chosen[:]); err != nil {
		return answer{reply: noReply, err: err}
	}
	if chosen != [2]byte{5, method} {
		return answer{reply: noMethod, err: fmt.Errorf("method reply % x", chosen)}
	}
	if c.user != "" {
		if a := c.login(conn); a.reply != granted {
			return a
		}
	}
	if _, err := conn.Write(request); err != nil {
		return answer{reply: noReply, err: err}
	}
	return readReply(conn)
}

func (c client) login(conn net.Conn) answer {
	msg := []byte{1, byte(len(c.user))}
	msg = append(msg, c.user...)
	msg = append(msg, byte(len(c.password)))
	msg = append(msg, c.password...)
	if _, err := conn.Write(msg); err != nil {
		return answer{reply: noReply, err: err}
	}
	var status [2]byte
	if _, err := io.ReadFull(conn, status[:]); err != nil || status != [2]byte{1, 0} {
		return answer{reply: noMethod, err: errors.Join(err, fmt.Errorf("login status % x", status))}
	}
	return answer{reply: granted}
}

// connectRequest returns the CONNECT message for host:port.
func connectRequest(target string) []byte { return request(1, target) }

// request returns the message that asks for a command and host:port.
func request(command byte, target string) []byte {
	host, port, err := net.SplitHostPort(target)
	if err != nil {
		panic(err)
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		panic(err)
	}
	msg := []byte{5, command, 0}
	if addr, err := netip.ParseAddr(host); err != nil {
		msg = append(append(msg, 3, byte(len(host))), host...)
	} else if addr.Is4() {
		msg = append(append(msg, 1), addr.AsSlice()...)
	} else {
		msg = append(append(msg, 4), addr.AsSlice()...)
	}
	return binary.BigEndian.AppendUint16(msg, uint16(number))
}

func readReply(conn net.Conn) answer {
	var head [4]byte
	if _, err := io.ReadFull(conn, head[:]); err != nil {
		return answer{reply: noReply, err: err}
	}
	if head[0] != 5 {
		return answer{reply: noReply, err: fmt.Errorf("reply % x", head)}
	}
	length := map[byte]int{1: 4, 4: 16}[head[3]]
	if length == 0 {
		return answer{reply: noReply, err: fmt.Errorf("reply with address type %d", head[3])}
	}
	rest := make([]byte, length+2)
	if _, err := io.ReadFull(conn, rest); err != nil {
		return answer{reply: noReply, err: err}
	}
	bound, _ := netip.AddrFromSlice(rest[:length])
	return answer{reply: int(head[1]), bound: netip.AddrPortFrom(bound, binary.BigEndian.Uint16(rest[length:]))}
}

// relays reports whether bytes sent to an echo come back.
func (a answer) relays() bool {
	if a.Conn == nil {
		return false
	}
	if a.SetDeadline(time.Now().Add(patience)) != nil {
		return false
	}
	line := fmt.Sprintf("%d\n", time.Now().UnixNano())
	if _, err := io.WriteString(a, line); err != nil {
		return false
	}
	back, err := bufio.NewReaderSize(a, 64).ReadString('\n')
	return err == nil && back == line
}

// crowd is the results of several requests.
type crowd []answer

// ask sends n requests at the same time. Granted ones stay open until the test ends or
// they are closed.
func (c client) ask(t testing.TB, n int, target string) crowd {
	t.Helper()
	all := make(crowd, n)
	together(n, func(i int) { all[i] = c.connect(target) })
	t.Cleanup(all.close)
	return all
}

func (c crowd) close() {
	for _, a := range c {
		if a.Conn != nil {
			a.Close()
		}
	}
}

// alive returns the sessions whose bytes come back from the target.
func (c crowd) alive() crowd {
	ok := make([]bool, len(c))
	together(len(c), func(i int) { ok[i] = c[i].relays() })
	var alive crowd
	for i, a := range c {
		if ok[i] {
			alive = append(alive, a)
		}
	}
	return alive
}

// replies counts the answers by reply.
func (c crowd) replies() map[int]int {
	count := map[int]int{}
	for _, a := range c {
		count[a.reply]++
	}
	return count
}

// want checks that n of the requests were granted and relay, and that all others got
// reply.
func (c crowd) want(t testing.TB, n, reply int) {
	t.Helper()
	if trouble := c.trouble(n, reply); trouble != "" {
		t.Fatal(trouble)
	}
}

// trouble returns the differences from what want expects.
func (c crowd) trouble(n, reply int) string {
	if got := c.replies(); got[granted] != n || got[reply] != len(c)-n && reply != granted {
		var err error
		for _, a := range c {
			err = cmp.Or(err, a.err)
		}
		return fmt.Sprintf("replies (reply: how many) %v, want %d granted and %d answered %d; one of them: %v", got, n, len(c)-n, reply, err)
	}
	if alive := len(c.alive()); alive != n {
		return fmt.Sprintf("%d connections relay, want %d", alive, n)
	}
	return ""
}
