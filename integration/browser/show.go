package browser

import (
	"fmt"
	"net"
	"net/http"
	"time"

	"usher/proxy/admin/page"
	"usher/proxy/admin/page/samples"
)

// Locked is the name of a state in which the page asks for the token.
const Locked = "locked"

// Show serves the status page of a sample, or of Locked, on a loopback address, until stop
// is called. Its event stream never tells of a change.
func Show(state string) (address string, stop func(), err error) {
	o := page.Options{MayRead: func(*http.Request) bool { return state != Locked }}
	if state != Locked {
		o.Source = samples.Of(state)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	show := page.New(o)
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
