// Package access decides who may ask the admin listener for what.
//
//	reading   from a loopback address, or with the token; if no token is set, from anywhere
//	writing   with the token; if none is set, nobody
//	profiles  from a loopback address, or with the token
//
// Other replicas of the cluster do not send the token. They sign their requests with it,
// see Sign.
package access

import (
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"time"

	"usher/proxy/admin/api"
	"usher/proxy/printable"
)

// Guard refuses requests. It is safe for concurrent use.
type Guard struct {
	// Token returns the token. nil: none is set. It is called for each request that
	// needs one, because a file may have a new one.
	Token func() (string, error)
	// Address returns where other replicas reach this listener, as they sign it.
	Address func() string
	Logger  *slog.Logger

	mu     sync.Mutex
	logged time.Time // when a refusal was logged last
	silent int       // refusals since
}

// Reading lets requests through to next that may read.
func (g *Guard) Reading(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if g.free(r) || g.admitted(w, r) {
			next.ServeHTTP(w, r)
		}
	})
}

// MayRead reports whether a request may read.
func (g *Guard) MayRead(r *http.Request) bool {
	if g.free(r) {
		return true
	}
	token, err := g.Token()
	return err == nil && g.proves(r, token)
}

// free reports whether reading needs no token.
func (g *Guard) free(r *http.Request) bool { return g.Token == nil || isLocal(r) }

// Profiling lets requests through to next that may read profiles of this process.
func (g *Guard) Profiling(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case isLocal(r):
			next.ServeHTTP(w, r)
		case g.Token == nil:
			g.refuse(w, r, http.StatusForbidden, api.Error{
				Error: "profiles are for loopback addresses", Remedy: "ask from the same machine, or set USHER_ADMIN_TOKEN or USHER_ADMIN_TOKEN_FILE and send the token",
			})
		case g.admitted(w, r):
			next.ServeHTTP(w, r)
		}
	})
}

// Writing lets requests through to next that may write, from any address.
func (g *Guard) Writing(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if g.Token == nil {
			g.refuse(w, r, http.StatusForbidden, api.Error{
				Error: "writing is off", Remedy: "set USHER_ADMIN_TOKEN or USHER_ADMIN_TOKEN_FILE on all replicas, and send the token as Authorization: Bearer TOKEN",
			})
			return
		}
		if _, _, ok := r.BasicAuth(); ok { // a browser adds it to requests of other sites, too
			r = r.Clone(r.Context())
			r.Header.Del("Authorization")
		}
		if g.admitted(w, r) {
			next.ServeHTTP(w, r)
		}
	})
}

// SameSite refuses requests of web pages that come from another site.
func (g *Guard) SameSite(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if origin := r.Header.Get("Origin"); origin != "" && !isOrigin(origin, r.Host) || r.Header.Get("Sec-Fetch-Site") == "cross-site" {
			g.refuse(w, r, http.StatusForbidden, api.Error{
				Error: "the request comes from a page of another site", Remedy: "open the status page of this admin listener, or use a client that sends no Origin",
			})
			return
		}
		next.ServeHTTP(w, r)
	})
}

// isOrigin reports whether a page of origin was loaded from host.
func isOrigin(origin, host string) bool {
	u, err := url.Parse(origin)
	return err == nil && u.Host != "" && strings.EqualFold(u.Host, host)
}

// admitted reports whether a request has the token. If not, it answers the request.
func (g *Guard) admitted(w http.ResponseWriter, r *http.Request) bool {
	token, err := g.Token()
	if err != nil {
		g.refuse(w, r, http.StatusServiceUnavailable, api.Error{
			Error: "the token cannot be read: " + printable.Text(err.Error()), Remedy: "mend USHER_ADMIN_TOKEN_FILE",
		})
		return false
	}
	switch {
	case g.proves(r, token):
		return true
	case r.Header.Get("Authorization") == "":
		g.challenge(w, r, "this request needs the token of the admin listener")
	case isSigned(r):
		g.refuse(w, r, http.StatusUnauthorized, api.Error{
			Error:  "the signature of the replica that asks is not good here",
			Remedy: "set the same USHER_ADMIN_TOKEN on all replicas, and their clocks; with USHER_ADMIN_ADVERTISE, see that its address leads to this replica",
		})
	default:
		g.challenge(w, r, "this is not the token of the admin listener")
	}
	return false
}

// proves reports whether a request has the token, or is signed with it.
func (g *Guard) proves(r *http.Request, token string) bool {
	if given, ok := sent(r); ok {
		return same(given, token)
	}
	return g.isPeer(r, token)
}

// challenge asks for the token. It does not offer Basic: a browser would ask in a window of
// its own over the status page, and send the password with requests of other sites.
func (g *Guard) challenge(w http.ResponseWriter, r *http.Request, why string) {
	w.Header().Add("WWW-Authenticate", `Bearer realm="usher"`)
	remedy := "send the value of USHER_ADMIN_TOKEN as Authorization: Bearer TOKEN"
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		remedy += ", or open the path / in a browser, where the status page asks for it"
	}
	g.refuse(w, r, http.StatusUnauthorized, api.Error{Error: why, Remedy: remedy})
}

// sent returns the token of a request.
func sent(r *http.Request) (token string, ok bool) {
	if _, password, ok := r.BasicAuth(); ok {
		return password, true
	}
	kind, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	return strings.TrimSpace(token), strings.EqualFold(kind, "Bearer")
}

// same compares in a time that does not depend on the texts, nor on their length.
func same(a, b string) bool {
	x, y := sha256.Sum256([]byte(a)), sha256.Sum256([]byte(b))
	return subtle.ConstantTimeCompare(x[:], y[:]) == 1
}

// forwarded are headers that proxies add.
var forwarded = []string{"Forwarded", "X-Forwarded-For", "X-Real-Ip", "Via"}

// isLocal reports whether a request comes from this machine. One that a proxy on this
// machine passes on comes from elsewhere.
func isLocal(r *http.Request) bool {
	for _, name := range forwarded {
		if r.Header.Get(name) != "" {
			return false
		}
	}
	return Who(r).IsLoopback()
}

// Who returns the address from which a request came.
func Who(r *http.Request) netip.Addr {
	at, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return at.Addr().Unmap()
}

// refusalPause is how long refusals are only counted after one was logged.
const refusalPause = time.Second

// refuse answers a request, and logs that.
func (g *Guard) refuse(w http.ResponseWriter, r *http.Request, code int, e api.Error) {
	g.mu.Lock()
	wanted := time.Since(g.logged) >= refusalPause
	silent := g.silent
	if wanted {
		g.logged, g.silent = time.Now(), 0
	} else {
		g.silent++
	}
	g.mu.Unlock()
	if wanted {
		g.Logger.Warn("admin request refused", "by", Who(r).String(), "request", printable.Text(fmt.Sprintf("%s %.200s", r.Method, r.URL.Path)),
			"error", e.Error, "not_logged", silent)
	}
	api.WriteError(w, code, e)
}
