package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"usher/cmd/usher/internal/exit"
	"usher/cmd/usher/internal/probe"
	"usher/proxy/socks"
)

// socksProbe has the flags of usher probe that go with --socks.
type socksProbe struct {
	Socks        string `help:"Prove that this SOCKS server forwards." placeholder:"HOST:PORT"`
	SocksVersion string `help:"SOCKS version: 4, 4a or 5." enum:"4,4a,5" default:"5"`
	Command      string `help:"SOCKS command to test: connect, or bind (a peer of the probe connects to the server)." enum:"connect,bind" default:"connect"`
	UDP          bool   `help:"Test a UDP association with a datagram in each direction." name:"udp"`
	User         string `help:"Log in as this user. SOCKS 4: the user id." placeholder:"NAME"`
	PasswordFile string `help:"File with the user's password." placeholder:"FILE"`
	Bind         string `help:"Address on which the probe listens, at a port that the system chooses. Default: the local address of the connection to the server." placeholder:"ADDR"`
	Target       string `help:"Connect to this instead of a listener of the probe. A connection is enough, unless --expect is given." placeholder:"HOST:PORT"`
	Expect       string `help:"Text that must be in the first 64 KiB that the target sends." placeholder:"TEXT"`
	Count        int    `help:"Number of sessions that are open at the same time." default:"1" placeholder:"N"`
}

// check refuses flags that contradict each other or SOCKS.
func (p socksProbe) check() error {
	given := p
	given.Socks = ""
	if p.Socks == "" && given != (socksProbe{SocksVersion: "5", Command: "connect", Count: 1}) {
		return errors.New("the flags for sessions need --socks HOST:PORT, too")
	}
	v4 := p.SocksVersion != "5"
	switch {
	case p.Count < 1 || p.Count > probe.MaxCount:
		return fmt.Errorf("--count: choose a number from 1 to %d", probe.MaxCount)
	case p.UDP && v4:
		return errors.New("--udp needs SOCKS 5")
	case p.UDP && p.Command != "connect":
		return errors.New("--udp and --command bind are two commands; choose one")
	case p.Target != "" && (p.UDP || p.Command != "connect"):
		return errors.New("--target is for --command connect only")
	case p.Expect != "" && p.Target == "":
		return errors.New("--expect needs --target, whose text it is")
	case v4 && p.PasswordFile != "":
		return errors.New("SOCKS 4 has no passwords; remove --password-file")
	case !v4 && (p.User == "") != (p.PasswordFile == ""):
		return errors.New("--user and --password-file need each other")
	case len(p.User) > socks.MaxName:
		return fmt.Errorf("--user: a name has at most %d bytes", socks.MaxName)
	}
	return nil
}

// ask probes the SOCKS server. An error is a mistake in the arguments.
func (p socksProbe) ask(ctx context.Context, timeout time.Duration) (verdict, error) {
	options, err := p.options()
	if err != nil {
		return verdict{}, exit.Usage(err)
	}
	options.Timeout = timeout
	result, err := probe.Run(ctx, options)
	if err != nil {
		return verdict{}, exit.Usage(err)
	}
	v := verdict{up: result.Up, what: result.Reason, text: "down: " + result.Reason, data: result, figure: figures(result)}
	if v.up {
		v.what = p.Socks + " forwards"
		v.text = "up: " + v.what
	}
	return v, nil
}

func (p socksProbe) options() (o probe.Options, err error) {
	o = probe.Options{Server: p.Socks, Version: socks.V5, Command: socks.Connect, User: p.User, Expect: p.Expect, Count: p.Count}
	if _, err := endpoint(p.Socks); err != nil {
		return o, fmt.Errorf("--socks: %w", err)
	}
	if p.SocksVersion != "5" {
		o.Version, o.Names = socks.V4, p.SocksVersion == "4a"
	}
	switch {
	case p.UDP:
		o.Command = socks.UDPAssociate
	case p.Command == "bind":
		o.Command = socks.Bind
	}
	if p.PasswordFile != "" {
		text, err := os.ReadFile(p.PasswordFile)
		if err != nil {
			return o, fmt.Errorf("--password-file: %w", err)
		}
		o.Password = string(bytes.TrimRight(text, "\r\n"))
		if len(o.Password) > socks.MaxName {
			return o, fmt.Errorf("--password-file: a password has at most %d bytes", socks.MaxName)
		}
	}
	if p.Bind != "" {
		if o.Bind, err = netip.ParseAddr(p.Bind); err != nil {
			return o, fmt.Errorf("--bind %q: not an IP address; the system chooses the port", p.Bind)
		}
		o.Bind = o.Bind.Unmap()
	}
	if p.Target != "" {
		target, err := endpoint(p.Target)
		if err != nil {
			return o, fmt.Errorf("--target: %w", err)
		}
		if o.Version == socks.V4 && !o.Names && target.IP.Is6() {
			return o, errors.New("--target: SOCKS 4 carries IPv4 addresses only")
		}
		o.Target = &target
	}
	return o, nil
}

// endpoint reads HOST:PORT.
func endpoint(text string) (socks.Addr, error) {
	host, number, err := net.SplitHostPort(text)
	port, portErr := strconv.ParseUint(number, 10, 16)
	if err != nil || portErr != nil || port == 0 || host == "" || len(host) > socks.MaxName {
		return socks.Addr{}, fmt.Errorf("%q is not HOST:PORT", text)
	}
	a := socks.Addr{Port: uint16(port)}
	if ip, err := netip.ParseAddr(host); err == nil {
		a.IP = ip.Unmap().WithZone("")
	} else {
		a.Name = host
	}
	return a, nil
}

// figures returns the time of each step, of the slowest session in it.
func figures(r probe.Result) string {
	var names []string
	slowest := map[string]float64{}
	for _, session := range r.Sessions {
		for _, step := range session {
			name := strings.ReplaceAll(step.Name, " ", "_")
			if _, known := slowest[name]; !known {
				names = append(names, name)
			}
			slowest[name] = max(slowest[name], step.Seconds)
		}
	}
	var b strings.Builder
	for _, name := range names {
		fmt.Fprintf(&b, "%s=%.3fs ", name, slowest[name])
	}
	fmt.Fprintf(&b, "total=%.3fs", r.Seconds)
	return b.String()
}
