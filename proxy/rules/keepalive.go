package rules

import (
	"strings"
	"time"
)

// The largest values that Linux accepts, see tcp(7).
const (
	maxKeepTime  = 32767 // seconds
	maxKeepCount = 127
)

// keepOptions is a set of the fields of KeepAlive.
type keepOptions uint8

const (
	keepOn keepOptions = 1 << iota
	keepIdle
	keepInterval
	keepCount
)

// keepAlive returns a reader of one number for the settings or a rule, towards clients
// or targets as the keyword says. Only so_keepalive may be 0.
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
		} else {
			set(&both.External, n)
		}
	}
}

func (k *KeepAlive) setOn(n int64) { k.On, k.given = n == 1, k.given|keepOn }
func (k *KeepAlive) setIdle(n int64) {
	k.Idle, k.given = time.Duration(n)*time.Second, k.given|keepIdle
}
func (k *KeepAlive) setInterval(n int64) {
	k.Interval, k.given = time.Duration(n)*time.Second, k.given|keepInterval
}
func (k *KeepAlive) setCount(n int64) { k.Count, k.given = int(n), k.given|keepCount }

// Over returns base, with the options that the rule file gives for k. Options that k
// has inherited do not count.
func (k KeepAlive) Over(base KeepAlive) KeepAlive {
	if k.given&keepOn != 0 {
		base.On = k.On
	}
	if k.given&keepIdle != 0 {
		base.Idle = k.Idle
	}
	if k.given&keepInterval != 0 {
		base.Interval = k.Interval
	}
	if k.given&keepCount != 0 {
		base.Count = k.Count
	}
	return base
}

// inherited returns the values that a rule begins with, none of them given.
func (k KeepAlives) inherited() KeepAlives {
	k.Internal.given, k.External.given = 0, 0
	return k
}

// print writes the options that the text gives.
func (k KeepAlives) print(b *strings.Builder, indent string) {
	k.Internal.print(b, indent+"internal.")
	k.External.print(b, indent+"external.")
}

func (k KeepAlive) print(b *strings.Builder, prefix string) {
	one := func(option keepOptions, keyword string, value int64) {
		if k.given&option != 0 {
			number(b, prefix, keyword, value)
		}
	}
	on := map[bool]int64{true: 1}
	one(keepOn, "socket.so_keepalive", on[k.On])
	one(keepIdle, "tcp.tcp_keepidle", int64(k.Idle/time.Second))
	one(keepInterval, "tcp.tcp_keepintvl", int64(k.Interval/time.Second))
	one(keepCount, "tcp.tcp_keepcnt", int64(k.Count))
}
