// Package admin is the HTTP listener for operators and their tools: health,
// readiness, metrics, status, the API and the status page.
package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"usher/proxy/admin/access"
	"usher/proxy/admin/api"
	"usher/proxy/admin/page"
	"usher/proxy/fair"
	"usher/proxy/printable"
)

// Options configure a Server. All fields but Names and API are required.
type Options struct {
	Readiness *Readiness
	// Snapshot is called for each request, concurrently.
	Snapshot func() Snapshot
	Gatherer prometheus.Gatherer
	// Names are the host names that clients may ask for, besides IP addresses and
	// localhost.
	Names []string
	// API answers the paths below api.Prefix. The status page shows what it tells about
	// the cluster. nil: there are no rules to tell about yet.
	API      *API
	Guard    *access.Guard // decides who may ask for what
	Profiles bool          // /debug/pprof/ is answered
	Logger   *slog.Logger  // for errors of the HTTP server
}

// API tells about the cluster, and changes it.
type API struct {
	Cluster api.Source
	Read    http.Handler // answers GET below api.Prefix
	Write   http.Handler // answers POST there
}

// MaxConnections is how many connections a Server keeps. If there is one more, it
// closes the oldest connection of the source (an IPv4 address or an IPv6 /64) that has
// the most. So idle connections keep no health check out.
const MaxConnections = 32

// maxBody bounds the body of a request, in bytes. No request needs one.
const maxBody = 16 << 10

// Server answers GET and HEAD of /healthz, /readyz, /metrics and /status, the API, and
// the status page for browsers.
type Server struct {
	o    Options
	http http.Server
	open fair.Conns
}

// New returns a Server that does not listen yet.
func New(o Options) *Server {
	s := &Server{o: o, open: fair.Conns{Most: MaxConnections}}
	s.http = http.Server{
		Handler:           s.routes(),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       15 * time.Second,
		ConnState:         s.count,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(o.Logger.Handler(), slog.LevelWarn),
	}
	return s
}

// count enforces MaxConnections. It is called when the state of a connection changes.
func (s *Server) count(c net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		s.open.Enter(c)
	case http.StateClosed, http.StateHijacked:
		s.open.Leave(c)
	}
}

// Serve answers requests on ln until Shutdown, then returns nil.
func (s *Server) Serve(ln net.Listener) error {
	if err := s.http.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("admin listener %s: %w", ln.Addr(), err)
	}
	return nil
}

// Shutdown closes the listener and waits for running requests. When ctx is done,
// it cuts the rest.
func (s *Server) Shutdown(ctx context.Context) error {
	if err := s.http.Shutdown(ctx); err != nil {
		return s.http.Close()
	}
	return nil
}

// routes relies on the mux: a pattern with GET also matches HEAD, and any other
// method gets 405.
func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", healthz)
	mux.HandleFunc("GET /readyz", s.readyz)
	mux.Handle("GET /status", s.reading(http.HandlerFunc(s.status)))
	s.tellOfCluster(mux)
	if s.o.Profiles {
		mux.Handle("GET "+profiles, s.o.Guard.SameSite(s.o.Guard.Profiling(profile())))
	}
	mux.Handle("GET /metrics", s.reading(newScrapes(promhttp.HandlerFor(s.o.Gatherer, promhttp.HandlerOpts{
		ErrorLog:      slog.NewLogLogger(s.o.Logger.Handler(), slog.LevelError),
		ErrorHandling: promhttp.ContinueOnError,
	}))))
	known := onlyFor(s.o.Names, mux)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'") // the status page has its own
		w.Header().Set("Cross-Origin-Resource-Policy", "same-origin")
		w.Header().Set("Referrer-Policy", "no-referrer")
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		known.ServeHTTP(w, r)
	})
}

// reading lets those through to h that may read.
func (s *Server) reading(h http.Handler) http.Handler {
	return s.o.Guard.SameSite(s.o.Guard.Reading(h))
}

// tellOfCluster adds the API, and the status page for browsers.
func (s *Server) tellOfCluster(mux *http.ServeMux) {
	if s.o.API == nil {
		mux.HandleFunc(api.Prefix, api.NotYet)
		mux.HandleFunc("GET /{$}", index)
		return
	}
	mux.Handle("GET "+api.Prefix, s.reading(s.o.API.Read))
	mux.HandleFunc(api.Prefix, api.OtherMethod)
	mux.Handle("POST "+api.Prefix, s.o.Guard.SameSite(s.o.Guard.Writing(s.o.API.Write)))
	show := page.New(page.Options{Source: s.o.API.Cluster, MayRead: s.o.Guard.MayRead})
	mux.Handle("GET "+page.Prefix, show.Assets())
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		if page.ForBrowser(r) {
			show.ServeHTTP(w, r)
			return
		}
		index(w, r)
	})
}

func index(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	fmt.Fprint(w, "usher admin listener\n"+
		"/         this list; for browsers the status page\n"+
		"/healthz  200 while the process is alive\n"+
		"/readyz   200 if balancers should send clients here (?strict=1: and limited rules can admit now)\n"+
		"/metrics  metrics for Prometheus\n"+
		"/status   JSON; usher status prints it\n"+
		"/api/v1/cluster, rules, limits, sessions, refusals, events  JSON about all replicas; openapi.json describes it\n")
}

// healthz depends on nothing outside the process. Otherwise an outage of the store
// would make supervisors kill healthy processes.
func healthz(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	fmt.Fprintln(w, "ok")
}

// Ready is the body of /readyz.
type Ready struct {
	Ready      bool   `json:"ready"`
	Reason     string `json:"reason,omitempty"` // why it is not ready
	Limited    bool   `json:"limited"`          // a rule in force has a limit
	Generation string `json:"generation"`
	Store      Store  `json:"store"`
}

// Status is the body of /status.
type Status struct {
	Ready  bool   `json:"ready"`
	Reason string `json:"reason,omitempty"`
	Snapshot
}

func (s *Server) readyz(w http.ResponseWriter, r *http.Request) {
	now := s.o.Snapshot()
	limited := now.Rules.Limited()
	reason := s.unready(now)
	if reason == "" && limited && r.URL.Query().Get("strict") == "1" {
		reason = now.Store.trouble()
	}
	code := http.StatusOK
	if reason != "" {
		code = http.StatusServiceUnavailable
	}
	writeJSON(w, code, Ready{
		Ready: reason == "", Reason: reason, Limited: limited,
		Generation: now.Rules.Generation, Store: now.Store,
	})
}

// Unready returns why a balancer should send no clients here, "" if it should. It
// is safe for concurrent use.
func (s *Server) Unready() string { return s.unready(s.o.Snapshot()) }

// unready returns why a balancer should send no clients here, "" if it should.
func (s *Server) unready(now Snapshot) string {
	reason := s.o.Readiness.Check(time.Now(), now.Rules.Limited(), now.Store.WasReady)
	if reason == StorePending {
		return now.Store.because(reason)
	}
	return reason
}

func (s *Server) status(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, s.Status())
}

// Status returns what /status answers. It is safe for concurrent use.
func (s *Server) Status() Status {
	now := s.o.Snapshot()
	reason := s.unready(now)
	return Status{Ready: reason == "", Reason: reason, Snapshot: now}
}

func writeJSON(w http.ResponseWriter, code int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	text, err := json.MarshalIndent(body, "", "  ")
	if err != nil {
		text = fmt.Appendf(nil, "%q", err) // no value of ours fails
	}
	_, _ = w.Write(append(printable.JSON(text), '\n')) // it fails only if the client is gone
}
