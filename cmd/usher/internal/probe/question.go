package probe

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"

	"usher/proxy/socks"
)

// Question is a request for a probe: the values of the flags of usher probe.
type Question struct {
	Socks        string // HOST:PORT
	SocksVersion string // 4, 4a or 5
	Command      string // connect or bind
	UDP          bool
	User         string
	PasswordFile string
	Bind         string
	Target       string // HOST:PORT
	Expect       string
	Count        int
}

// Check refuses flags that contradict each other or SOCKS.
func (q Question) Check() error {
	given := q
	given.Socks = ""
	if q.Socks == "" && given != (Question{SocksVersion: "5", Command: "connect", Count: 1}) {
		return errors.New("the flags for sessions need --socks HOST:PORT, too")
	}
	v4 := q.SocksVersion != "5"
	switch {
	case q.Count < 1 || q.Count > MaxCount:
		return fmt.Errorf("--count: choose a number from 1 to %d", MaxCount)
	case q.UDP && v4:
		return errors.New("--udp needs SOCKS 5")
	case q.UDP && q.Command != "connect":
		return errors.New("--udp and --command bind are two commands; choose one")
	case q.Target != "" && (q.UDP || q.Command != "connect"):
		return errors.New("--target is for --command connect only")
	case q.Expect != "" && q.Target == "":
		return errors.New("--expect needs --target, whose text it is")
	case v4 && q.PasswordFile != "":
		return errors.New("SOCKS 4 has no passwords; remove --password-file")
	case !v4 && (q.User == "") != (q.PasswordFile == ""):
		return errors.New("--user and --password-file need each other")
	case len(q.User) > socks.MaxName:
		return fmt.Errorf("--user: a name has at most %d bytes", socks.MaxName)
	}
	return nil
}

// Options reads what is asked. The error says which flag has a mistake.
func (q Question) Options() (o Options, err error) {
	o = Options{Server: q.Socks, Version: socks.V5, Command: socks.Connect, User: q.User, Expect: q.Expect, Count: q.Count}
	if _, err := endpoint(q.Socks); err != nil {
		return o, fmt.Errorf("--socks: %w", err)
	}
	if q.SocksVersion != "5" {
		o.Version, o.Names = socks.V4, q.SocksVersion == "4a"
	}
	switch {
	case q.UDP:
		o.Command = socks.UDPAssociate
	case q.Command == "bind":
		o.Command = socks.Bind
	}
	if q.PasswordFile != "" {
		text, err := os.ReadFile(q.PasswordFile)
		if err != nil {
			return o, fmt.Errorf("--password-file: %w", err)
		}
		o.Password = string(bytes.TrimRight(text, "\r\n"))
		if len(o.Password) > socks.MaxName {
			return o, fmt.Errorf("--password-file: a password has at most %d bytes", socks.MaxName)
		}
	}
	if q.Bind != "" {
		if o.Bind, err = netip.ParseAddr(q.Bind); err != nil {
			return o, fmt.Errorf("--bind %q: not an IP address; the system chooses the port", q.Bind)
		}
		o.Bind = o.Bind.Unmap()
	}
	if q.Target != "" {
		target, err := endpoint(q.Target)
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
