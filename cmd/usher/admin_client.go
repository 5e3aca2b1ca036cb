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

	"usher/cmd/usher/internal/exit"
)

// adminGet requests path from an admin listener. where is the address given on
// the command line; "" means USHER_ADMIN_LISTEN. The body is cut at 1 MiB.
func adminGet(ctx context.Context, sys system, where, path string, timeout time.Duration) (code int, body []byte, err error) {
	if where == "" {
		cfg, err := sys.config()
		if err != nil {
			return 0, nil, err
		}
		where = string(cfg.AdminListen)
	}
	if where == "" {
		return 0, nil, exit.Usage(errors.New("USHER_ADMIN_LISTEN is off; give an address with --admin"))
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+reachable(where)+path, nil)
	if err != nil {
		return 0, nil, exit.Usage(fmt.Errorf("admin address %q: %w", where, err))
	}
	// Without a Transport of its own the client would use HTTP_PROXY.
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return 0, nil, fmt.Errorf("cannot reach the admin listener at %s: %w; check that usher runs and listens there", where, err)
	}
	defer resp.Body.Close()
	body, err = io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	return resp.StatusCode, body, err
}

// reachable returns an address to connect to for a listen address.
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
