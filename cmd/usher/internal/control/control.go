// Package control asks a running usher through its admin listener, and signals it.
package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"syscall"
	"time"

	"usher/cmd/usher/internal/exit"
	"usher/proxy/admin"
	"usher/proxy/admin/api"
	"usher/proxy/printable"
)

// Target is a running usher.
type Target struct {
	Admin   string        // address of its admin listener
	NoAdmin error         // why the address is not known; nil: it is
	PID     int           // 0: the process that the admin listener names
	Timeout time.Duration // for all that one method does
	// Token returns the token of the admin listener, "" if there is none. nil: there is none.
	Token func() (string, error)
}

// Client returns a client of the API.
func (t Target) Client() (*api.Client, error) {
	if t.NoAdmin != nil {
		return nil, t.NoAdmin
	}
	token, err := t.token()
	return &api.Client{Address: reachable(t.Admin), Token: token, Timeout: t.Timeout}, err
}

func (t Target) token() (string, error) {
	if t.Token == nil {
		return "", nil
	}
	return t.Token()
}

// Get requests path from the admin listener. The body is cut at 1 MiB.
func (t Target) Get(ctx context.Context, path string) (code int, body []byte, err error) {
	if t.NoAdmin != nil {
		return 0, nil, t.NoAdmin
	}
	ctx, cancel := context.WithTimeout(ctx, t.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+reachable(t.Admin)+path, nil)
	if err != nil {
		return 0, nil, exit.Usage(fmt.Errorf("admin address %q: %w", t.Admin, err))
	}
	if token, err := t.token(); err == nil && token != "" { // what needs none works without
		req.Header.Set("Authorization", "Bearer "+token)
	}
	// Without a Transport of its own the client would use HTTP_PROXY.
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return 0, nil, fmt.Errorf("cannot reach the admin listener at %s: %w; check that usher runs and listens there", t.Admin, err)
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

// Status asks for the status. text is the answer itself, in JSON.
func (t Target) Status(ctx context.Context) (st admin.Status, text []byte, err error) {
	code, text, err := t.Get(ctx, "/status")
	if err != nil {
		return st, nil, err
	}
	if err := json.Unmarshal(text, &st); err != nil || code != http.StatusOK {
		return st, nil, errNotStatus(code)
	}
	return st, text, nil
}

func errNotStatus(code int) error {
	return fmt.Errorf("the admin listener answered with HTTP status %d and a body that is not usher's status; check the address and the version of that usher", code)
}

func (t Target) status(ctx context.Context) (admin.Status, error) {
	st, _, err := t.Status(ctx)
	return st, err
}

// newer returns the status of a process that knows the signals of this version. An
// older one ignores them.
func (t Target) newer(ctx context.Context) (admin.Status, error) {
	st, text, err := t.Status(ctx)
	if err != nil {
		return st, err
	}
	var knows struct {
		Upgrade *admin.Request `json:"upgrade"`
	}
	if err := json.Unmarshal(text, &knows); err != nil {
		return st, errNotStatus(http.StatusOK)
	}
	if knows.Upgrade == nil {
		return st, refusalError{fmt.Errorf("the running usher has version %s, which does not know this command; restart it", printable.Text(st.Version))}
	}
	if st.Reason == admin.Draining {
		return st, refusalError{errors.New("usher is draining and will stop")}
	}
	return st, nil
}

// send signals the process after hear has returned st and deaf.
func (t Target) send(st admin.Status, deaf error, sig syscall.Signal) error {
	if err := t.signal(st, sig); err != nil {
		return err
	}
	if deaf != nil {
		return UnheardError{deaf}
	}
	return nil
}

// order is send for what the API can do as well: it asks the API of a process that is
// not here, if there is a token.
func (t Target) order(ctx context.Context, st admin.Status, deaf error, sig syscall.Signal, ask func(*api.Client, context.Context) error) error {
	client, err := t.Client()
	if t.PID != 0 || t.here(st) || err == nil && client.Token == "" {
		return t.send(st, deaf, sig)
	}
	if err != nil {
		return err
	}
	return ask(client, ctx)
}

// here reports whether the process that the admin listener names runs this program on
// this machine.
func (t Target) here(st admin.Status) bool { return st.PID > 0 && sameProgram(st.PID) }

// signal signals the process. An admin listener may be that of another machine or
// container, where the number belongs to another process: the one to signal must
// run the same program as this command, unless PID names it.
func (t Target) signal(st admin.Status, sig syscall.Signal) error {
	pid := t.pid(st)
	if t.PID < 0 { // for kill, this is a group of processes, or all of them
		return exit.Usage(fmt.Errorf("--pid %d: not the number of a process", t.PID))
	}
	if t.PID == 0 && !t.here(st) {
		return fmt.Errorf("process %d, which the admin listener names, is not this usher here; run the command where it runs, or name its process with --pid; drain and undrain also work with the token of that usher in USHER_ADMIN_TOKEN", pid)
	}
	if err := syscall.Kill(pid, sig); err != nil {
		return fmt.Errorf("cannot signal process %d: %w; run the command as the same user", pid, err)
	}
	return nil
}

func (t Target) pid(st admin.Status) int {
	if t.PID != 0 {
		return t.PID
	}
	return st.PID
}

// pause waits a moment; it reports false if ctx ends.
func pause(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(20 * time.Millisecond):
		return true
	}
}
