package integration

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"
)

// silence is how long the test waits for a datagram before it counts as dropped.
const silence = 500 * time.Millisecond

// datagram is one that a client has sent through an association.
type datagram struct {
	socket  net.PacketConn // the client's
	mark    string         // of this one alone in its laboratory
	trouble string         // why it was not sent
}

// burst returns how many of the next steps are datagrams through different
// associations. The test sends these at once. Through the same association, danted may
// lose the answer to one datagram while it sends another.
func burst(steps []*caseStep) int {
	used := map[string]bool{}
	for n, s := range steps {
		if s.question.verb != "datagram" || used[s.question.on] {
			return n
		}
		used[s.question.on] = true
	}
	return len(steps)
}

// datagrams asks several questions at once, and returns what happened to each datagram:
// the answer of a target, no answer (the datagram arrived, the answer did not), or
// dropped.
func (d *interview) datagrams(steps []*caseStep) []string {
	var sent []*datagram
	for _, s := range steps {
		sent = append(sent, d.send(s.question))
	}
	words := make([]string, len(sent))
	answered := map[string]string{} // by mark
	deadline := time.Now().Add(silence)
	for i, g := range sent {
		words[i] = d.outcome(g, deadline, answered)
	}
	return words
}

// send sends a datagram through an association, from a socket that belongs to
// the association and the client's address.
func (d *interview) send(q question) *datagram {
	p := d.open[q.on]
	if p == nil {
		return &datagram{trouble: "not open"}
	}
	d.lab.datagrams++
	g := &datagram{socket: p.udp[q.from.Addr()], mark: fmt.Sprint(d.lab.datagrams)}
	if g.socket == nil {
		local := q.from
		if !local.IsValid() {
			local = netip.MustParseAddrPort("127.0.0.1:0")
		}
		var err error
		if g.socket, err = net.ListenPacket("udp", local.String()); err != nil {
			return &datagram{trouble: err.Error()}
		}
		p.udp[q.from.Addr()] = g.socket
	}
	request := connectRequest(q.target)
	packet := append([]byte{0, 0, 0}, request[3:]...)
	packet = append(packet, "hello "+g.mark...)
	if _, err := g.socket.WriteTo(packet, net.UDPAddrFromAddrPort(p.bound)); err != nil {
		g.trouble = err.Error()
	}
	return g
}

// outcome waits for the answer to a datagram. It records answers to other datagrams
// that come to the same socket.
func (d *interview) outcome(g *datagram, deadline time.Time, answered map[string]string) string {
	if g.trouble != "" {
		return g.trouble
	}
	packet := make([]byte, 1<<16)
	for answered[g.mark] == "" {
		// Waiting for others may have taken all the time, and the answer has come meanwhile.
		last := time.Now().Add(10 * time.Millisecond)
		if last.Before(deadline) {
			last = deadline
		}
		g.socket.SetReadDeadline(last) //nolint:errcheck // the socket is open
		n, _, err := g.socket.ReadFrom(packet)
		if err != nil {
			if _, arrived := d.lab.arrived.Load(g.mark); arrived {
				return "no answer"
			}
			return "dropped"
		}
		_, text, _ := strings.Cut(string(packet[:n]), "hello ")
		mark, who, found := strings.Cut(text, " ")
		if !found {
			return fmt.Sprintf("answer %q", packet[:n])
		}
		answered[mark] = who
	}
	return "answer of " + answered[g.mark]
}
