package admin

import (
	"net/http"
	"net/http/pprof"
	"strconv"
	"strings"
	"time"
)

// profiles begins the paths of profiles.
const profiles = "/debug/pprof/"

// maxProfile bounds how long a profile takes, in seconds.
const maxProfile = 60

// profile answers requests for profiles of this process.
func profile() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if asked := r.URL.Query().Get("seconds"); asked != "" {
			if n, err := strconv.Atoi(asked); err != nil || n < 1 || n > maxProfile {
				http.Error(w, "seconds is no number from 1 to "+strconv.Itoa(maxProfile), http.StatusBadRequest)
				return
			}
		}
		// It is longer than other answers. The error is that of a writer without deadlines.
		_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add((maxProfile + 10) * time.Second))
		switch strings.TrimPrefix(r.URL.Path, profiles) {
		case "cmdline": // it may have secrets
			http.NotFound(w, r)
		case "profile":
			pprof.Profile(w, r)
		case "symbol":
			pprof.Symbol(w, r)
		case "trace":
			pprof.Trace(w, r)
		default:
			pprof.Index(w, r)
		}
	})
}
