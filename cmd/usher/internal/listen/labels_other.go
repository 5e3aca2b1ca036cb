//go:build !linux

package listen

import (
	"fmt"
	"net"
	"net/netip"
)

// labelled returns all addresses of the machine, each by its interface.
func labelled() ([]labelledAddr, error) {
	interfaces, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("network interfaces: %w", err)
	}
	var found []labelledAddr
	for _, i := range interfaces {
		list, err := i.Addrs()
		if err != nil {
			return nil, fmt.Errorf("addresses of %s: %w", i.Name, err)
		}
		for _, a := range list {
			if prefix, err := netip.ParsePrefix(a.String()); err == nil {
				found = append(found, labelledAddr{i.Name, prefix.Addr()})
			}
		}
	}
	return found, nil
}
