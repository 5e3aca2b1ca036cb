package admin

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"usher/proxy/admin/api"
	"usher/proxy/printable"
)

// onlyFor answers requests for IP addresses, localhost and names, and refuses all
// others. Otherwise a web page could let its own name point to this listener (DNS
// rebinding), and read the answer in its visitor's browser.
//
// A request without a host passes: browsers always send one, and health checks of
// HTTP/1.0 do not.
func onlyFor(names []string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if host := hostOf(r.Host); host != "" && !isOurs(host, names) {
			api.WriteError(w, http.StatusMisdirectedRequest, api.Error{
				Error: fmt.Sprintf("%q is not a name of this admin listener", printable.Text(host)), Remedy: "ask for an address, or add the name to USHER_ADMIN_HOSTS",
			})
			return
		}
		next.ServeHTTP(w, r)
	})
}

// hostOf returns the host of a Host header, without port, brackets and final dot.
func hostOf(header string) string {
	host, _, err := net.SplitHostPort(header)
	if err != nil { // there is no port
		host = strings.TrimSuffix(strings.TrimPrefix(header, "["), "]")
	}
	return strings.TrimSuffix(host, ".")
}

func isOurs(host string, names []string) bool {
	if _, err := netip.ParseAddr(host); err == nil {
		return true
	}
	is := func(name string) bool { return strings.EqualFold(name, host) }
	return is("localhost") || slices.ContainsFunc(names, is)
}
