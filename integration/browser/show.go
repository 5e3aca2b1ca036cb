package browser

import (
	"fmt"
	"net"
	"net/http"
	"time"

	"usher/proxy/admin/api"
	"usher/proxy/admin/page"
)

// Show serves the status page of source on a loopback address, until stop is called. Its
// event stream never tells of a change.
func Show(source api.Source) (address string, stop func(), err error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	show := page.New(page.Options{Source: source})
	mux := http.NewServeMux()
	mux.Handle("GET /{$}", show)
	mux.Handle("GET "+page.Prefix, show.Assets())
	mux.HandleFunc("GET /api/v1/events", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprint(w, ":\n\n")
		_ = http.NewResponseController(w).Flush() // it fails only if the client is gone
		<-r.Context().Done()
	})
	server := &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(ln) // until Close
	}()
	return ln.Addr().String(), func() {
		server.Close()
		<-done
	}, nil
}
