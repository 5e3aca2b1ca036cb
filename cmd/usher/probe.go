package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"usher/proxy/admin"
	"usher/proxy/printable"
)

type probeCmd struct {
	Admin   string        `help:"Address of the admin listener. Default: USHER_ADMIN_LISTEN." placeholder:"HOST:PORT"`
	Timeout time.Duration `help:"How long to wait for the answer." default:"2s"`
	Strict  bool          `help:"Also require a store that lets limited rules admit sessions."`
	Relayd  bool          `help:"Invert the exit codes for relayd check scripts: 1 if ready, 0 if not."`
}

// Run requests /readyz. A process that does not answer is not ready.
func (p probeCmd) Run(ctx context.Context, sys system) error {
	path := "/readyz"
	if p.Strict {
		path += "?strict=1"
	}
	code, body, err := adminGet(ctx, sys, p.Admin, path, p.Timeout)
	ready := err == nil && code == http.StatusOK
	switch {
	case err != nil:
		fmt.Fprintf(sys.stdout, "not ready: %s\n", printable.Text(err.Error()))
	case ready:
		fmt.Fprintln(sys.stdout, "ready")
	default:
		fmt.Fprintf(sys.stdout, "not ready: %s\n", printable.Text(reasonIn(code, body)))
	}
	if ready != p.Relayd {
		return nil
	}
	return exitError(1)
}

// reasonIn returns the reason in the body of /readyz, else the HTTP status.
func reasonIn(code int, body []byte) string {
	var r admin.Ready
	if err := json.Unmarshal(body, &r); err != nil || r.Reason == "" {
		return fmt.Sprintf("HTTP status %d", code)
	}
	return r.Reason
}
