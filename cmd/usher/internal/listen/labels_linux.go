package listen

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"unsafe"
)

// labelled returns all addresses of the machine. The package net has no labels.
func labelled() ([]labelledAddr, error) {
	names := map[int]string{}
	interfaces, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("network interfaces: %w", err)
	}
	for _, i := range interfaces {
		names[i.Index] = i.Name
	}
	table, err := syscall.NetlinkRIB(syscall.RTM_GETADDR, syscall.AF_UNSPEC)
	if err != nil {
		return nil, fmt.Errorf("addresses of interfaces: %w", err)
	}
	messages, err := syscall.ParseNetlinkMessage(table)
	if err != nil {
		return nil, fmt.Errorf("addresses of interfaces: %w", err)
	}
	var found []labelledAddr
	for _, m := range messages {
		if m.Header.Type != syscall.RTM_NEWADDR || len(m.Data) < syscall.SizeofIfAddrmsg {
			continue
		}
		attributes, err := syscall.ParseNetlinkRouteAttr(&m)
		if err != nil {
			return nil, fmt.Errorf("addresses of interfaces: %w", err)
		}
		index := (*syscall.IfAddrmsg)(unsafe.Pointer(&m.Data[0])).Index
		if a := labelOf(attributes, names[int(index)]); a.addr.IsValid() {
			found = append(found, a)
		}
	}
	return found, nil
}

// labelOf reads one address. IFA_LOCAL is its own where IFA_ADDRESS is the peer's,
// as on a point-to-point link.
func labelOf(attributes []syscall.NetlinkRouteAttr, name string) labelledAddr {
	a := labelledAddr{label: name}
	for _, attribute := range attributes {
		switch attribute.Attr.Type {
		case syscall.IFA_LABEL:
			a.label = strings.TrimRight(string(attribute.Value), "\x00")
		case syscall.IFA_LOCAL:
			a.addr, _ = netip.AddrFromSlice(attribute.Value)
		case syscall.IFA_ADDRESS:
			if !a.addr.IsValid() {
				a.addr, _ = netip.AddrFromSlice(attribute.Value)
			}
		}
	}
	return a
}
