package admin

import (
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Scrapes that come while a text is made get its bytes, whatever their headers say. The
// next scrape gets a new text. Two texts are never made at the same time.
func TestScrapesShareACollection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := prometheus.NewRegistry()
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "pi"}, func() float64 { return 3 }))
		var mu sync.Mutex
		texts, now := 0, 0
		answer := promhttp.HandlerFor(reg, promhttp.HandlerOpts{})
		s := newScrapes(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			texts++
			if now++; now > 1 {
				t.Error("two texts are made at a time")
			}
			mu.Unlock()
			time.Sleep(time.Second) // collecting and encoding take their time
			answer.ServeHTTP(w, r)
			mu.Lock()
			now--
			mu.Unlock()
		}))
		for want := 1; want <= 2; want++ {
			var group sync.WaitGroup
			for i := range 24 {
				group.Go(func() {
					r := httptest.NewRequest("GET", "/metrics", nil)
					r.Header.Set("Accept", fmt.Sprintf("text/plain;version=0.0.4;q=0.%d", 1+i%9))
					if i%3 == 0 {
						r.Header.Set("Accept-Encoding", "br, gzip")
					}
					wantText(t, s, r, "pi 3\n")
				})
			}
			group.Wait()
			if texts != 2*want { // one plain, one compressed
				t.Errorf("%d texts, want %d", texts, 2*want)
			}
		}
	})
}

// A client that leaves while it waits for its turn costs nothing: nobody waits for its text.
func TestLeftScrapesAreNotCollected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		texts, finish := 0, make(chan struct{})
		s := newScrapes(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
			texts++
			<-finish
		}))
		var first, left sync.WaitGroup
		first.Go(func() { s.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/metrics", nil)) })
		synctest.Wait()
		ctx, leave := context.WithCancel(t.Context())
		for i := range 100 {
			left.Go(func() {
				r := httptest.NewRequest("GET", fmt.Sprintf("/metrics?name[]=%d", i), nil)
				s.ServeHTTP(httptest.NewRecorder(), r.WithContext(ctx))
			})
		}
		synctest.Wait()
		leave()
		synctest.Wait()
		close(finish)
		left.Wait()
		first.Wait()
		if texts != 1 {
			t.Errorf("%d texts are collected, want 1", texts)
		}
	})
}

func wantText(t *testing.T, s http.Handler, r *http.Request, want string) {
	t.Helper()
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	body := io.Reader(w.Body)
	if w.Header().Get("Content-Encoding") == "gzip" {
		var err error
		if body, err = gzip.NewReader(w.Body); err != nil {
			t.Error(err)
			return
		}
	}
	text, err := io.ReadAll(body)
	if err != nil || w.Code != http.StatusOK || !strings.HasSuffix(string(text), want) {
		t.Errorf("%d %q, %v", w.Code, text, err)
	}
	if got := w.Header().Get("Content-Type"); !strings.HasPrefix(got, "text/plain; version=0.0.4") {
		t.Errorf("Content-Type %q", got)
	}
}

func TestEncodingFor(t *testing.T) {
	for accept, want := range map[string]bool{"": false, "identity": false, "gzip": true, "GZIP;q=0.5": true, "br;q=1, gzip; q=0": false, "gzip;q=0.0": false} {
		if got := encodingFor(http.Header{"Accept-Encoding": {accept}}).gzip; got != want {
			t.Errorf("Accept-Encoding %q: gzip %v, want %v", accept, got, want)
		}
	}
	proto := "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited"
	e := encodingFor(http.Header{"Accept": {proto}})
	if again := encodingFor(e.request().Header); again != e || !strings.Contains(string(e.format), "delimited") {
		t.Errorf("%v becomes %v", e, again)
	}
}

// A scrape of named metrics gets only these.
func TestScrapeOfNames(t *testing.T) {
	reg := prometheus.NewRegistry()
	for _, name := range []string{"one", "two"} {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name}, func() float64 { return 1 }))
	}
	s := newScrapes(promhttp.HandlerFor(reg, promhttp.HandlerOpts{}))
	w := httptest.NewRecorder()
	s.ServeHTTP(w, httptest.NewRequest("GET", "/metrics?name[]=two", nil))
	if text := w.Body.String(); strings.Contains(text, "one 1") || !strings.Contains(text, "two 1") {
		t.Error(text)
	}
}
