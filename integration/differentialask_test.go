package integration

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// question is one line of a case: what a client does.
type question struct {
	soon    bool           // ask until the answer is the wanted one, as slots become free only after a while
	label   string         // the connection stays open under this name
	on      string         // a connection that was left open: close, peer, datagram, request
	from    netip.AddrPort // the client; any if invalid
	via     string         // the proxy's address
	version int            // 4 or 5
	offer   []byte         // methods
	user    string         // RFC 1929, or the user id of SOCKS 4
	pass    string
	verb    string
	target  string // host:port
	raw     []byte
	rules   string // to reload
}

// Verbs that ask for something, and their numbers in a request.
var commands = map[string]byte{"connect": 1, "bind": 2, "associate": 3}

// parseQuestion reads
//
//	[soon] [LABEL:] [from=ADDR[:PORT]] [via=ADDR] [v4] [offer=METHOD,...] [user=NAME[:PASSWORD]] VERB ...
//
// where VERB ... is one of
//
//	greet                    negotiates, and sends no request
//	connect|bind|associate HOST:PORT
//	request LABEL VERB HOST:PORT     on a connection that has greeted
//	close LABEL
//	peer LABEL               connects to what a bind was given
//	datagram LABEL HOST:PORT sends one through an association
//	raw HEX                  sends these bytes instead of a request
//	speak LABEL              says something to the target
//	reload RULES             gives the proxy other rules, on one line, and SIGHUP
//
// SOCKS 4 sends a host that is no address as SOCKS 4a does. A client at an
// IPv6 address speaks to the proxy's IPv6 address.
func parseQuestion(text string) (question, error) {
	q := question{version: 5, offer: []byte{0}}
	offered := false
	words := strings.Fields(text)
	for ; len(words) > 0; words = words[1:] {
		key, value, _ := strings.Cut(words[0], "=")
		switch {
		case key == "soon":
			q.soon = true
		case strings.HasSuffix(key, ":"):
			q.label = strings.TrimSuffix(key, ":")
		case key == "from":
			var err error
			if q.from, err = parseSource(value); err != nil {
				return q, err
			}
		case key == "via":
			q.via = net.JoinHostPort(value, "1080")
		case key == "v4":
			q.version = 4
		case key == "offer":
			offered = true
			q.offer = nil
			for m := range strings.SplitSeq(value, ",") {
				number, known := map[string]byte{"none": 0, "gssapi": 1, "username": 2, "": 0x80}[m]
				if !known {
					return q, fmt.Errorf("method %q", m)
				}
				if m != "" {
					q.offer = append(q.offer, number)
				}
			}
		case key == "user":
			var given bool
			if q.user, q.pass, given = strings.Cut(value, ":"); !given {
				q.pass = "pw-" + q.user
			}
		default:
			if q.user != "" && !offered {
				q.offer = []byte{2}
			}
			return q, q.parseVerb(words)
		}
	}
	return q, errors.New("no verb")
}

func (q *question) parseVerb(words []string) error {
	if q.via == "" {
		q.via = "127.0.0.1:1080"
		if q.from.Addr().Is6() {
			q.via = "[::1]:1080"
		}
	}
	q.verb = words[0]
	words = words[1:]
	if q.verb == "reload" {
		q.rules = strings.Join(words, " ")
		return nil
	}
	if slices.Contains([]string{"request", "close", "peer", "datagram", "speak"}, q.verb) {
		if len(words) == 0 {
			return fmt.Errorf("%s what?", q.verb)
		}
		q.on, words = words[0], words[1:]
	}
	if q.verb == "request" && len(words) > 0 {
		q.verb, words = words[0], words[1:]
	}
	want := 1
	if slices.Contains([]string{"greet", "close", "peer", "speak"}, q.verb) {
		want = 0
	} else if commands[q.verb] == 0 && q.verb != "datagram" && q.verb != "raw" {
		return fmt.Errorf("unknown verb %q", q.verb)
	}
	if len(words) != want {
		return fmt.Errorf("%s with %d words behind it, want %d", q.verb, len(words), want)
	}
	if want == 0 {
		return nil
	}
	if q.verb == "raw" {
		var err error
		q.raw, err = hex.DecodeString(words[0])
		return err
	}
	q.target = words[0]
	_, port, err := net.SplitHostPort(q.target)
	if err != nil {
		return err
	}
	_, err = strconv.ParseUint(port, 10, 16)
	return err
}

// parseSource reads ADDR or ADDR:PORT.
func parseSource(text string) (netip.AddrPort, error) {
	if addr, err := netip.ParseAddr(text); err == nil {
		return netip.AddrPortFrom(addr, 0), nil
	}
	return netip.ParseAddrPort(text)
}

// interview asks the questions of one case. Answers are words:
//
//	closed                  the connection was closed without a byte
//	no method               05 FF
//	denied                  RFC 1929 said no, or the connection was closed instead
//	reply N                 SOCKS 5, or SOCKS 4's 91
//	hung up                 closed where a reply was due
//	granted TARGET          and the target's own word for it
//	bound, associated       with the address in the reply
//	answer of TARGET        to a datagram; no answer if it arrived, dropped if not
//
// A method precedes them if the client offered several; "by ADDR" follows if
// the target sees another address than the proxy's usual one.
type interview struct {
	lab   *laboratory
	proxy *contender
	open  map[string]*party
}

// party is an open connection.
type party struct {
	net.Conn
	version int
	bound   netip.AddrPort                // of a BIND or an association
	udp     map[netip.Addr]net.PacketConn // an association's sockets by client address
}

func (p *party) close() {
	p.Conn.Close()
	for _, pc := range p.udp {
		pc.Close()
	}
}

func (d *interview) end() {
	for _, p := range d.open {
		p.close()
	}
}

// ask asks once. If q says so, it asks until the answer is want.
func (d *interview) ask(q question, want string) string {
	if !q.soon || want == "" {
		return d.askOnce(q)
	}
	var got string
	poll(patience, func() string {
		if got = d.askOnce(q); got != want {
			return got
		}
		return ""
	})
	return got
}

func (d *interview) askOnce(q question) string {
	switch q.verb {
	case "reload":
		return d.reload(q)
	case "close", "peer", "speak":
		p := d.open[q.on]
		if p == nil {
			return "not open"
		}
		switch q.verb {
		case "close":
			p.close()
			delete(d.open, q.on)
			return "done"
		case "peer":
			return p.peer(q)
		}
		return p.speak()
	}
	p, words := d.open[q.on], ""
	if q.on == "" {
		conn, err := dialFrom(q.from, q.via)
		if err != nil {
			return err.Error()
		}
		p = &party{Conn: conn, version: q.version}
		words, err = p.greet(q)
		if err != nil {
			p.close()
			return err.Error()
		}
	} else if p == nil {
		return "not open"
	}
	if q.verb == "greet" {
		d.keep(q.label, p)
		return words + "greeted"
	}
	answer, err := p.request(q)
	if err != nil {
		delete(d.open, q.on)
		p.close()
		return words + err.Error()
	}
	if q.on == "" {
		d.keep(q.label, p)
	}
	return words + answer
}

// keep leaves a connection open under its label, or closes it.
func (d *interview) keep(label string, p *party) {
	if label == "" {
		p.close()
		return
	}
	if old := d.open[label]; old != nil {
		old.close()
	}
	d.open[label] = p
}

// Answers that end a conversation.
var (
	errClosed   = errors.New("closed")
	errNoMethod = errors.New("no method")
	errDenied   = errors.New("denied")
	errHungUp   = errors.New("hung up")
)

// ended returns err if the connection has ended, and otherwise what happened.
func ended(got error, err error) error {
	if errors.Is(got, io.EOF) || errors.Is(got, io.ErrUnexpectedEOF) || reset(got) {
		return err
	}
	return got
}

// greet negotiates, and returns the method if there was a choice. SOCKS 4 has
// no greeting.
func (p *party) greet(q question) (words string, err error) {
	if p.version == 4 {
		return "", nil
	}
	if _, err := p.Write(append([]byte{5, byte(len(q.offer))}, q.offer...)); err != nil {
		return "", ended(err, errClosed)
	}
	var chosen [2]byte
	if _, err := io.ReadFull(p, chosen[:]); err != nil {
		return "", ended(err, errClosed)
	}
	if chosen[1] == 0xff {
		return "", errNoMethod
	}
	if len(q.offer) > 1 {
		words = map[byte]string{0: "none, ", 2: "username, "}[chosen[1]]
	}
	if chosen[1] == 0 {
		return words, nil
	}
	login := append([]byte{1, byte(len(q.user))}, q.user...)
	login = append(append(login, byte(len(q.pass))), q.pass...)
	if _, err := p.Write(login); err != nil {
		return "", ended(err, errDenied)
	}
	var status [2]byte
	if _, err := io.ReadFull(p, status[:]); err != nil {
		return "", ended(err, errDenied)
	}
	if status[1] != 0 {
		return "", errDenied
	}
	return words, nil
}

// request sends a request, and returns the result if it was granted.
func (p *party) request(q question) (string, error) {
	within(p)
	if _, err := p.Write(q.message(p.version)); err != nil {
		return "", ended(err, errHungUp)
	}
	bound, err := p.readReply()
	if err != nil {
		return "", err
	}
	p.bound = bound
	switch q.verb {
	case "raw":
		return "granted", nil
	case "bind":
		return "bound " + bound.Addr().String(), nil
	case "associate":
		p.udp = map[netip.Addr]net.PacketConn{}
		return "associated " + bound.Addr().String(), nil
	}
	line, err := readLine(p)
	if err != nil {
		return "", fmt.Errorf("granted, and no word from the target: %w", err)
	}
	target, source, _ := strings.Cut(line, " ")
	words := "granted " + target
	if by, _, _ := net.SplitHostPort(source); by != "127.0.0.1" && by != "::1" {
		words += " by " + by
	}
	if source != bound.String() {
		words += ", but the reply said " + bound.String()
	}
	return words, nil
}

// message returns the request in a version of SOCKS.
func (q *question) message(version int) []byte {
	switch {
	case q.verb == "raw":
		return q.raw
	case version == 4:
		return request4(commands[q.verb], q.target, q.user)
	}
	msg := connectRequest(q.target)
	msg[1] = commands[q.verb]
	return msg
}

// request4 returns a request of SOCKS 4, or 4a for a name.
func request4(command byte, target, user string) []byte {
	five := connectRequest(target)
	msg := append([]byte{4, command}, five[len(five)-2:]...)
	if five[3] != 3 {
		msg = append(msg, five[4:8]...)
		return append(append(msg, user...), 0)
	}
	msg = append(append(msg, 0, 0, 0, 1), user...)
	msg = append(msg, 0)
	return append(append(msg, five[5:len(five)-2]...), 0)
}

// readReply reads a reply and returns its address.
func (p *party) readReply() (netip.AddrPort, error) {
	var head [8]byte
	n := 4
	if p.version == 4 {
		n = 8
	}
	if _, err := io.ReadFull(p, head[:n]); err != nil {
		return netip.AddrPort{}, ended(err, errHungUp)
	}
	if p.version == 4 {
		if head[1] != 90 {
			return netip.AddrPort{}, fmt.Errorf("reply %d", head[1])
		}
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(head[4:])), binary.BigEndian.Uint16(head[2:])), nil
	}
	if head[1] != 0 {
		return netip.AddrPort{}, fmt.Errorf("reply %d", head[1])
	}
	length := map[byte]int{1: 4, 4: 16}[head[3]]
	rest := make([]byte, length+2)
	if _, err := io.ReadFull(p, rest); err != nil {
		return netip.AddrPort{}, ended(err, errHungUp)
	}
	addr, _ := netip.AddrFromSlice(rest[:length])
	return netip.AddrPortFrom(addr, binary.BigEndian.Uint16(rest[length:])), nil
}

// peer connects to the address of a BIND, and returns the second reply.
func (p *party) peer(q question) string {
	within(p)
	peer, err := dialFrom(q.from, p.bound.String())
	if err != nil {
		return "nobody listens"
	}
	defer peer.Close()
	named, err := p.readReply()
	if err != nil {
		return err.Error()
	}
	if named.String() != peer.LocalAddr().String() {
		return fmt.Sprintf("the reply names %v for %v", named, peer.LocalAddr())
	}
	if _, err := io.WriteString(peer, "hello\n"); err != nil {
		return err.Error()
	}
	if line, err := readLine(p); line != "hello" {
		return fmt.Sprintf("granted, but %q %v came through", line, err)
	}
	return "granted"
}
