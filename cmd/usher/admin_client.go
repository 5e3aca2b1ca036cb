package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"time"
)

// adminGet asks an admin listener for path. where is the address given on the
// command line, "" for the one that the environment names. The body is at
// most 1 MiB.
func adminGet(ctx context.Context, sys system, where, path string, timeout time.Duration) (code int, body []byte, err error) {
	if where == "" {
		cfg, err := sys.config()
		if err != nil {
			return 0, nil, err
		}
		where = string(cfg.AdminListen)
	}
	if where == "" {
		return 0, nil, usageError{errors.New("USHER_ADMIN_LISTEN is off; name an address with --admin")}
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+reachable(where)+path, nil)
	if err != nil {
		return 0, nil, usageError{fmt.Errorf("admin address %q: %w", where, err)}
	}
	// A proxy of the environment must not stand between a health check and its process.
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return 0, nil, fmt.Errorf("admin listener %s: %w; is usher running there?", where, err)
	}
	defer resp.Body.Close()
	body, err = io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	return resp.StatusCode, body, err
}

// reachable turns an address to listen at into one to connect to.
func reachable(where string) string {
	host, port, err := net.SplitHostPort(where)
	if err != nil {
		return where
	}
	if addr, err := netip.ParseAddr(host); host == "" || err == nil && addr.IsUnspecified() {
		host = "127.0.0.1"
		if addr.Is6() {
			host = "::1"
		}
	}
	return net.JoinHostPort(host, port)
}
