package admin

import (
	"bytes"
	"maps"
	"net/http"
	"strings"
	"sync"

	"github.com/prometheus/common/expfmt"
)

// scrapes answers requests for the metrics. It collects and encodes one text at a
// time, because a collection walks over all sessions, and new ones wait meanwhile.
// Requests for the text that is in progress get the same bytes.
type scrapes struct {
	metrics http.Handler // collects and encodes for each request

	turn chan struct{} // has a token while a text is collected and encoded

	mu      sync.Mutex
	running map[encoding]*scrape
}

func newScrapes(metrics http.Handler) *scrapes {
	return &scrapes{metrics: metrics, turn: make(chan struct{}, 1), running: make(map[encoding]*scrape)}
}

// encoding is what requests for the same bytes have in common. There are few values,
// whatever the headers of requests are.
type encoding struct {
	format expfmt.Format
	gzip   bool
}

// scrape is one text. It is complete when done is closed.
type scrape struct {
	done   chan struct{}
	code   int
	header http.Header
	body   bytes.Buffer
}

func newScrape() *scrape {
	return &scrape{done: make(chan struct{}), code: http.StatusOK, header: http.Header{}}
}

// Header implements http.ResponseWriter.
func (s *scrape) Header() http.Header { return s.header }

// WriteHeader implements http.ResponseWriter.
func (s *scrape) WriteHeader(code int) { s.code = code }

// Write implements http.ResponseWriter. It never fails.
func (s *scrape) Write(text []byte) (int, error) { return s.body.Write(text) }

// ServeHTTP implements http.Handler.
func (s *scrapes) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	text := newScrape()
	if r.URL.RawQuery == "" {
		text = s.shared(encodingFor(r.Header))
	} else { // it names metrics, so nobody else gets the same
		s.fill(text, r)
	}
	maps.Copy(w.Header(), text.header)
	w.WriteHeader(text.code)
	_, _ = w.Write(text.body.Bytes()) // it fails if the client has left
}

// shared returns the text that is in progress in this encoding, or else a new one.
func (s *scrapes) shared(e encoding) *scrape {
	s.mu.Lock()
	text := s.running[e]
	if text != nil {
		s.mu.Unlock()
		<-text.done
		return text
	}
	text = newScrape()
	s.running[e] = text
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.running, e)
		s.mu.Unlock()
		close(text.done)
	}()
	s.fill(text, e.request())
	return text
}

// fill collects and encodes text, when no other text is in progress. If the client leaves
// before, nothing is collected: those that have left may be very many.
func (s *scrapes) fill(text *scrape, r *http.Request) {
	select {
	case s.turn <- struct{}{}:
	case <-r.Context().Done():
		return
	}
	defer func() { <-s.turn }()
	s.metrics.ServeHTTP(text, r)
}

func encodingFor(h http.Header) encoding {
	e := encoding{format: expfmt.NegotiateAccept(h, expfmt.DefaultAcceptedFormats()...)}
	for _, part := range strings.Split(h.Get("Accept-Encoding"), ",") {
		name, quality, weighted := strings.Cut(part, ";")
		if strings.EqualFold(strings.TrimSpace(name), "gzip") {
			e.gzip = !weighted || strings.Trim(quality, " q=0.") != ""
		}
	}
	return e
}

// request returns a request whose answer has this encoding.
func (e encoding) request() *http.Request {
	r := &http.Request{Method: http.MethodGet, Header: http.Header{}}
	r.Header.Set("Accept", string(e.format))
	r.Header.Set("Accept-Encoding", "identity")
	if e.gzip {
		r.Header.Set("Accept-Encoding", "gzip")
	}
	return r
}
