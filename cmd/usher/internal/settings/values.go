package settings

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"regexp"
	"strconv"
	"strings"

	"usher/proxy/rules"
	"usher/store/redisstore"
)

// HostPort is an address to listen at. An empty host means every address.
type HostPort string

// UnmarshalText implements encoding.TextUnmarshaler.
func (h *HostPort) UnmarshalText(text []byte) error {
	s := strings.TrimSpace(string(text))
	host, port, err := net.SplitHostPort(s)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil || strings.ContainsAny(host, " /") {
		return fmt.Errorf("%q is not an address and a port; write it like 127.0.0.1:1080 or [::1]:1080", s)
	}
	*h = HostPort(s)
	return nil
}

// AdminAddr is a HostPort, or "" to disable the listener.
type AdminAddr string

// UnmarshalText implements encoding.TextUnmarshaler.
func (a *AdminAddr) UnmarshalText(text []byte) error {
	if strings.TrimSpace(string(text)) == "off" {
		*a = ""
		return nil
	}
	return (*HostPort)(a).UnmarshalText(text)
}

// Prefixes are networks. A bare address is a network of one address.
type Prefixes []netip.Prefix

// UnmarshalText implements encoding.TextUnmarshaler.
func (p *Prefixes) UnmarshalText(text []byte) error {
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

// HostNames are names of hosts, without ports.
type HostNames []string

// UnmarshalText implements encoding.TextUnmarshaler.
func (h *HostNames) UnmarshalText(text []byte) error {
	*h = nil
	for part := range strings.SplitSeq(string(text), ",") {
		part = strings.TrimSuffix(strings.TrimSpace(part), ".")
		if part == "" || strings.ContainsAny(part, " /:*[]") {
			return fmt.Errorf("%q is not a host name; write it like usher.example, without a port", part)
		}
		*h = append(*h, part)
	}
	return nil
}

// Addresses are the addresses to advertise, at most one of each family.
type Addresses []netip.Addr

// UnmarshalText implements encoding.TextUnmarshaler.
func (a *Addresses) UnmarshalText(text []byte) error {
	*a = nil
	for part := range strings.SplitSeq(string(text), ",") {
		part = strings.TrimSpace(part)
		addr, err := netip.ParseAddr(part)
		addr = addr.Unmap()
		if err != nil || addr.Zone() != "" || addr.IsUnspecified() || addr.IsMulticast() {
			return fmt.Errorf("%q is not an IP address that clients can send to; write it like 192.0.2.7 or 2001:db8::7", part)
		}
		for _, other := range *a {
			if other.Is4() == addr.Is4() {
				return fmt.Errorf("%v and %v are of the same family; remove one of them", other, addr)
			}
		}
		*a = append(*a, addr)
	}
	return nil
}

// PortRange is a range of ports, both ends included.
type PortRange rules.PortRange

// UnmarshalText implements encoding.TextUnmarshaler.
func (p *PortRange) UnmarshalText(text []byte) error {
	lo, hi, isRange := strings.Cut(string(text), "-")
	if !isRange {
		hi = lo
	}
	a, errA := strconv.ParseUint(strings.TrimSpace(lo), 10, 16)
	b, errB := strconv.ParseUint(strings.TrimSpace(hi), 10, 16)
	if errA != nil || errB != nil || a == 0 || a > b {
		return fmt.Errorf("%q is not a port range; write it like 20000-20999", text)
	}
	*p = PortRange{Lo: uint16(a), Hi: uint16(b)}
	return nil
}

// ReplicaName is the name of this replica for people.
type ReplicaName string

// UnmarshalText implements encoding.TextUnmarshaler.
func (r *ReplicaName) UnmarshalText(text []byte) error {
	if !regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`).Match(text) {
		return fmt.Errorf("%q is not a replica name; write 1 to 64 letters, digits, dots, hyphens and underscores", text)
	}
	*r = ReplicaName(text)
	return nil
}

// defaultReplica names the machine and the process.
func defaultReplica() ReplicaName {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return ReplicaName(fmt.Sprintf("%s-%d", host, os.Getpid()))
}

// ClusterName is the name of a set of replicas. Replicas with names that differ
// in a single character count apart, so only plain names are accepted.
type ClusterName string

// UnmarshalText implements encoding.TextUnmarshaler.
func (c *ClusterName) UnmarshalText(text []byte) error {
	*c = ClusterName(text)
	return redisstore.CheckCluster(string(text))
}

// Memory counts in this process alone.
const Memory StoreURL = "memory"

// StoreURL is the address of the store. It may hold a password: print it with
// String, which leaves the password out.
type StoreURL string

// UnmarshalText implements encoding.TextUnmarshaler. Its errors do not quote
// the text, as it may hold a password.
func (s *StoreURL) UnmarshalText(text []byte) error {
	value := strings.TrimSpace(string(text))
	if value != string(Memory) {
		if _, err := redisstore.Address(value); err != nil {
			return fmt.Errorf("%w (or write memory to count in this process alone)", err)
		}
	}
	*s = StoreURL(value)
	return nil
}

// String returns the address without user, password and options.
func (s StoreURL) String() string {
	address, err := redisstore.Address(string(s))
	if err != nil { // the URL was checked, so this is memory
		return string(Memory)
	}
	return address
}
