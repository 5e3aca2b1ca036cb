package redisstore

import (
	"errors"
	"fmt"
	"net"
	"strconv"
)

// Bounds on the replies of a server. The client library allocates by the lengths that a
// reply announces, before it has seen the data: an announced length of 2^62 is a panic,
// one of 100 GB the end of the process. A legitimate reply stays far below: the largest
// is the list of members, less than 200 bytes each.
const (
	maxReply   = 1 << 20 // bytes of one reply, with all that it announces
	maxLine    = 64 << 10
	maxNesting = 8 // arrays, maps, sets and pushes in each other; 4 in what the store asks for

	leastElement = 3 // bytes: a type and CR LF
)

// replyError says how a reply violates the protocol or its bounds.
type replyError string

func (e replyError) Error() string { return "protocol: " + string(e) }

var (
	errReplySize = replyError(fmt.Sprintf("reply exceeds %d bytes", maxReply))
	errReplyLine = replyError(fmt.Sprintf("a line of the reply exceeds %d bytes", maxLine))
	errReplyNest = replyError(fmt.Sprintf("reply is nested deeper than %d levels", maxNesting))
	errReplyForm = replyError("reply is malformed; the store must be a Redis or Valkey server")
)

// boundedConn passes on the bytes of a server, up to the first reply that exceeds a
// bound. It passes on nothing of the chunk in which it notices that.
type boundedConn struct {
	net.Conn
	replies replyScanner
	err     error
}

func (c *boundedConn) Read(p []byte) (int, error) {
	if c.err != nil {
		return 0, c.err
	}
	n, err := c.Conn.Read(p)
	if c.err = c.replies.scan(p[:n]); c.err != nil {
		return 0, c.err
	}
	return n, err
}

// replyScanner follows the framing of RESP2 and RESP3 in a stream of replies (the Redis
// serialization protocol specification). It keeps no data. It must recognise each
// header that the library recognises. Where the library is lenient, as with "$+5", the
// scanner refuses.
type replyScanner struct {
	data int // bytes of a string still to come, with its CR LF

	line int      // bytes of the header line so far
	head [24]byte // its beginning, enough for a type and a length
	last byte     // its latest byte

	open  [maxNesting]int // elements still to come, of each aggregate around
	depth int
	size  int // bytes that the reply has had so far or has announced
}

func (s *replyScanner) scan(p []byte) error {
	for len(p) > 0 {
		if s.data > 0 {
			n := min(s.data, len(p))
			p = p[n:]
			if s.data -= n; s.data == 0 {
				s.element()
			}
			continue
		}
		b := p[0]
		p = p[1:]
		if err := s.header(b); err != nil {
			return err
		}
	}
	return nil
}

// header handles one byte of a header line.
func (s *replyScanner) header(b byte) error {
	if s.line < len(s.head) {
		s.head[s.line] = b
	}
	s.line++
	if s.line > maxLine {
		return errReplyLine
	}
	last := s.last
	s.last = b
	if b != '\n' {
		return nil
	}
	length := s.line
	s.line = 0
	if last != '\r' || length < leastElement {
		return errReplyForm
	}
	return s.begin(length)
}

// begin handles a complete header line of that length.
func (s *replyScanner) begin(length int) error {
	s.size += length
	if s.depth > 0 {
		s.size -= leastElement // announced by the aggregate around
	}
	kind, each := s.head[0], 1
	switch kind {
	case '+', '-', ':', '_', ',', '#', '(':
		return s.end()
	case '$', '!', '=', '*', '~', '>':
	case '%':
		each = 2
	default:
		// Among them the attribute ("|"). No command of the store is answered
		// with one, and the library skips those inside others in a way of its
		// own, so that it could take data for a header.
		return errReplyForm
	}
	if length > len(s.head) {
		return errReplyForm
	}
	text := string(s.head[1 : length-2])
	if text == "-1" && (kind == '$' || kind == '*') { // nil in RESP2
		return s.end()
	}
	n, err := strconv.ParseUint(text, 10, 63)
	switch {
	case errors.Is(err, strconv.ErrRange) || err == nil && n > maxReply:
		return errReplySize
	case err != nil:
		return errReplyForm
	}
	if kind == '$' || kind == '!' || kind == '=' {
		s.data = int(n) + 2
		return s.announce(s.data)
	}
	return s.enter(int(n) * each)
}

// enter begins an aggregate of n elements.
func (s *replyScanner) enter(n int) error {
	if n == 0 {
		return s.end()
	}
	if s.depth == maxNesting {
		return errReplyNest
	}
	s.open[s.depth] = n
	s.depth++
	return s.announce(n * leastElement)
}

func (s *replyScanner) announce(bytes int) error {
	if s.size += bytes; s.size > maxReply {
		return errReplySize
	}
	return nil
}

// end is the end of an element without data of its own.
func (s *replyScanner) end() error {
	err := s.announce(0)
	s.element()
	return err
}

// element counts an element that is complete, and what it completes.
func (s *replyScanner) element() {
	for s.depth > 0 {
		s.open[s.depth-1]--
		if s.open[s.depth-1] > 0 {
			return
		}
		s.depth--
	}
	s.size = 0
}
