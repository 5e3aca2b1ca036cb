package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// hostPort is where to listen. An empty host is every address.
type hostPort string

// UnmarshalText implements encoding.TextUnmarshaler.
func (h *hostPort) UnmarshalText(text []byte) error {
	s := strings.TrimSpace(string(text))
	host, port, err := net.SplitHostPort(s)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil || strings.ContainsAny(host, " /") {
		return fmt.Errorf("%q is not an address and a port; write it like 127.0.0.1:1080 or [::1]:1080", s)
	}
	*h = hostPort(s)
	return nil
}

// adminAddr is a hostPort, or "" for no listener.
type adminAddr string

// UnmarshalText implements encoding.TextUnmarshaler.
func (a *adminAddr) UnmarshalText(text []byte) error {
	if strings.TrimSpace(string(text)) == "off" {
		*a = ""
		return nil
	}
	return (*hostPort)(a).UnmarshalText(text)
}

// prefixes are networks; a bare address is the network of itself.
type prefixes []netip.Prefix

// UnmarshalText implements encoding.TextUnmarshaler.
func (p *prefixes) UnmarshalText(text []byte) error {
	*p = nil
	for part := range strings.SplitSeq(string(text), ",") {
		part = strings.TrimSpace(part)
		prefix, err := netip.ParsePrefix(part)
		if err != nil {
			addr, aerr := netip.ParseAddr(part)
			if aerr != nil || addr.Zone() != "" {
				return fmt.Errorf("%q is not a network; write it like 10.0.0.0/8, 192.0.2.7 or fd00::/8", part)
			}
			prefix = netip.PrefixFrom(addr, addr.BitLen())
		}
		*p = append(*p, prefix.Masked())
	}
	return nil
}

const memory storeURL = "memory"

// storeURL says where to count. It may hold a password: String leaves it out,
// and nothing but the opening of the store uses the text itself.
type storeURL string

// UnmarshalText implements encoding.TextUnmarshaler. Its errors do not quote
// the text.
func (s *storeURL) UnmarshalText(text []byte) error {
	if value := strings.TrimSpace(string(text)); value == string(memory) {
		*s = memory
		return nil
	}
	u, err := url.Parse(strings.TrimSpace(string(text)))
	if err != nil {
		return errors.New("not a URL (not shown, it may hold a password); " +
			"write memory or redis://host:port/db, with special characters of a password as %XX")
	}
	if u.Scheme != "redis" && u.Scheme != "rediss" {
		return fmt.Errorf("unknown kind of store %q; write memory, redis://host:port/db or rediss://host:port/db", u.Scheme)
	}
	if u.Host == "" {
		return fmt.Errorf("the URL has no host; write %s://host:port/db", u.Scheme)
	}
	*s = storeURL(u.String())
	return nil
}

// String returns the address without user, password and options.
func (s storeURL) String() string {
	u, err := url.Parse(string(s))
	if s == memory || err != nil {
		return string(memory)
	}
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()
}
