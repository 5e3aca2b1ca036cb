package api

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"time"

	"usher/proxy/printable"
)

// MaxBody bounds an answer that a Client reads, in bytes.
const MaxBody = 32 << 20

// Client asks the API of one replica. It is safe for concurrent use.
type Client struct {
	Address string // of its admin listener: host:port, or a URL without path
	Token   string // USHER_ADMIN_TOKEN; "": none is sent
	Local   bool   // asks for that replica alone
	// Authorize, if set, adds what a request needs instead of Token.
	Authorize func(*http.Request)
	ID        string // with Local: of the replica; the answer of another one is an error
	By        string // for whom requests are made that change something
	// HTTP is used for requests. nil: a new connection for each, never through a proxy.
	HTTP *http.Client
	// Timeout bounds each request; 0: 10 s, and 15 s for EndNotAdmitted.
	Timeout time.Duration
	// Body, if it is not nil, gets the JSON text of each answer that is a success.
	Body func(text []byte)
}

// FailedError is an answer that is no success.
type FailedError struct {
	Code   int // HTTP status
	Answer Error
}

// Error implements error.
func (e *FailedError) Error() string {
	text := printable.Text(e.Answer.Error)
	if e.Answer.Remedy != "" {
		text += "; " + printable.Text(e.Answer.Remedy)
	}
	return text
}

// Cluster returns the replicas and the store.
func (c *Client) Cluster(ctx context.Context) (a Cluster, err error) {
	return a, c.do(ctx, http.MethodGet, "cluster", nil, &a)
}

// Rules returns the rules of each generation that lives.
func (c *Client) Rules(ctx context.Context) (a Rules, err error) {
	return a, c.do(ctx, http.MethodGet, "rules", nil, &a)
}

// Limits returns the limits and their use.
func (c *Client) Limits(ctx context.Context) (a Limits, err error) {
	return a, c.do(ctx, http.MethodGet, "limits", nil, &a)
}

// Sessions returns a page of the running sessions.
func (c *Client) Sessions(ctx context.Context, q Query) (a Sessions, err error) {
	return a, c.do(ctx, http.MethodGet, "sessions", q.Values(), &a)
}

// Refusals returns a page of the last refusals.
func (c *Client) Refusals(ctx context.Context, q Query) (a Refusals, err error) {
	return a, c.do(ctx, http.MethodGet, "refusals", q.Values(), &a)
}

// End ends one session, on whichever replica it runs.
func (c *Client) End(ctx context.Context, session string) (a Ended, err error) {
	return a, c.do(ctx, http.MethodPost, "sessions/"+url.PathEscape(session)+"/end", nil, &a)
}

// EndNotAdmitted ends the sessions that the rules in force would not admit.
func (c *Client) EndNotAdmitted(ctx context.Context) (a Ended, err error) {
	return c.EndAll(ctx, Ending{NotAdmitted: true})
}

// EndGeneration ends the sessions of an old generation.
func (c *Client) EndGeneration(ctx context.Context, label string) (a Ended, err error) {
	return c.EndAll(ctx, Ending{Generation: label})
}

// JudgeTime bounds how long a replica takes to judge its sessions anew: it may have to look
// up names.
const JudgeTime = 12 * time.Second

// EndAll ends the sessions that which selects.
func (c *Client) EndAll(ctx context.Context, which Ending) (a Ended, err error) {
	if which.Session != "" {
		return c.End(ctx, which.Session)
	}
	at := *c
	if which.NotAdmitted && c.Timeout == 0 { // it asks others, too
		at.Timeout = JudgeTime + 3*time.Second
	}
	return a, at.do(ctx, http.MethodPost, "sessions/end", which.Values(), &a)
}

// Drain makes a replica take no new sessions. "" is the replica that is asked.
func (c *Client) Drain(ctx context.Context, replica string) (a Changed, err error) {
	return a, c.do(ctx, http.MethodPost, "drain", named(replica), &a)
}

// Undrain makes a replica take new sessions again. "" is the replica that is asked.
func (c *Client) Undrain(ctx context.Context, replica string) (a Changed, err error) {
	return a, c.do(ctx, http.MethodPost, "undrain", named(replica), &a)
}

func named(replica string) url.Values {
	if replica == "" {
		return nil
	}
	return url.Values{"replica": {replica}}
}

// do sends a request and reads its answer into a.
func (c *Client) do(ctx context.Context, method, path string, v url.Values, a any) error {
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(c.Timeout, 10*time.Second))
	defer cancel()
	resp, err := c.send(ctx, method, path, v)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, MaxBody+1))
	switch {
	case err != nil:
		return err
	case len(text) > MaxBody:
		return fmt.Errorf("the answer of %s has more than %d bytes", c.Address, MaxBody)
	case resp.StatusCode != http.StatusOK:
		return failed(resp, text)
	}
	if err := json.Unmarshal(text, a); err != nil {
		return fmt.Errorf("the answer of %s is none of this API: %w; check the address and the version of that usher", c.Address, err)
	}
	if c.Body != nil {
		c.Body(text)
	}
	return nil
}

// send sends a request. The caller closes the body of the response.
func (c *Client) send(ctx context.Context, method, path string, v url.Values) (*http.Response, error) {
	v = maps.Clone(v)
	if c.Local {
		if v == nil {
			v = url.Values{}
		}
		v.Set("local", cmp.Or(c.ID, "1"))
	}
	if c.By != "" && method == http.MethodPost {
		if v == nil {
			v = url.Values{}
		}
		v.Set("by", c.By)
	}
	where := strings.TrimSuffix(c.Address, "/")
	if !strings.Contains(where, "://") {
		where = "http://" + where
	}
	where += Prefix + path
	if len(v) > 0 {
		where += "?" + v.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, where, nil)
	if err != nil {
		return nil, fmt.Errorf("admin address %q: %w", c.Address, err)
	}
	switch {
	case c.Authorize != nil:
		c.Authorize(req)
	case c.Token != "":
		req.Header.Set("Authorization", "Bearer "+c.Token)
	}
	resp, err := cmp.Or(c.HTTP, direct).Do(req)
	if err != nil {
		var failed *url.Error
		if errors.As(err, &failed) {
			err = failed.Err // without the URL
		}
		return nil, fmt.Errorf("cannot reach the admin listener at %s: %w; check that usher runs and listens there", c.Address, err)
	}
	return resp, nil
}

// direct makes a new connection for each request, without the HTTP_PROXY of the
// environment, and follows no redirect: the token is for one address.
var direct = &http.Client{
	Transport:     &http.Transport{DisableKeepAlives: true},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// failed reads the body of an answer that is no success.
func failed(resp *http.Response, text []byte) error {
	e := &FailedError{Code: resp.StatusCode}
	if err := json.Unmarshal(text, &e.Answer); err != nil || e.Answer.Error == "" {
		e.Answer = Error{
			Error:  fmt.Sprintf("the admin listener answered with HTTP status %d", resp.StatusCode),
			Remedy: "check the address and the version of that usher",
		}
	}
	return e
}
