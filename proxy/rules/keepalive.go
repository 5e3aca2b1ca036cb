package rules

import (
	"strconv"
	"strings"
	"time"
)

// What Linux takes, tcp(7).
const (
	maxKeepTime  = 32767 // seconds
	maxKeepCount = 127
)

// keepAlive returns a reader of one number for the settings or a rule, towards
// clients or targets as the keyword says. Nothing but being on may be 0.
func keepAlive(most int64, set func(*KeepAlive, int64)) func(*parser, token) {
	return func(p *parser, k token) {
		least := int64(1)
		if most == 1 {
			least = 0
		}
		n, ok := p.number(k, least, most)
		if !ok {
			return
		}
		both := &p.set.Settings.KeepAlives
		if p.in != inSettings {
			both = &p.rule.KeepAlives
		}
		if strings.HasPrefix(k.text, "internal.") {
			set(&both.Internal, n)
			both.InternalGiven = p.in != inSettings
		} else {
			set(&both.External, n)
		}
	}
}

func (k *KeepAlive) setOn(n int64)       { k.On = n == 1 }
func (k *KeepAlive) setIdle(n int64)     { k.Idle = time.Duration(n) * time.Second }
func (k *KeepAlive) setInterval(n int64) { k.Interval = time.Duration(n) * time.Second }
func (k *KeepAlive) setCount(n int64)    { k.Count = int(n) }

// print writes what differs from base, and one line at least of what is given.
func (k KeepAlives) print(b *strings.Builder, indent string, base KeepAlives) {
	k.Internal.print(b, indent+"internal.", base.Internal, k.InternalGiven && k.Internal == base.Internal)
	k.External.print(b, indent+"external.", base.External, false)
}

func (k KeepAlive) print(b *strings.Builder, prefix string, base KeepAlive, same bool) {
	one := func(keyword string, value, base int) {
		if value != base || same {
			line(b, prefix, keyword, strconv.Itoa(value))
			same = false
		}
	}
	on := map[bool]int{true: 1}
	one("socket.so_keepalive", on[k.On], on[base.On])
	one("tcp.tcp_keepidle", int(k.Idle/time.Second), int(base.Idle/time.Second))
	one("tcp.tcp_keepintvl", int(k.Interval/time.Second), int(base.Interval/time.Second))
	one("tcp.tcp_keepcnt", k.Count, base.Count)
}
