//go:build !linux

package sockopt

import (
	"net"
	"syscall"
)

func listenConfig(k net.KeepAliveConfig) net.ListenConfig {
	return net.ListenConfig{KeepAliveConfig: k}
}

func urgentInline(string, string, syscall.RawConn) error { return nil }

func choosePortLate(string, string, syscall.RawConn) error { return nil }
