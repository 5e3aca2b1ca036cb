package access

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Anybody who can write to the store can write cards of replicas, with any address. So
// a replica never sends the token to another one. Its signature is good for one request
// to one address, for a short time.

// scheme begins the Authorization header of a signed request.
const scheme = "Usher-Peer"

// skew is how much the clocks of replicas may differ.
const skew = 2 * time.Minute

// Sign signs a request with the token, for the replica that is at address.
func Sign(r *http.Request, token, address string, now time.Time) {
	at := strconv.FormatInt(now.Unix(), 10)
	r.Header.Set("Authorization", scheme+" "+at+":"+mac(r, token, address, at))
}

func mac(r *http.Request, token, address, at string) string {
	h := hmac.New(sha256.New, []byte(token))
	for _, part := range []string{"usher admin request of a replica, version 1", at, r.Method, r.URL.RequestURI(), address} {
		h.Write([]byte(part))
		h.Write([]byte{0})
	}
	return hex.EncodeToString(h.Sum(nil))
}

// isSigned reports whether a request has a signature, good or not.
func isSigned(r *http.Request) bool {
	kind, _, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	return kind == scheme
}

// isPeer reports whether another replica has signed a request, to this one.
func (g *Guard) isPeer(r *http.Request, token string) bool {
	kind, rest, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	at, given, ok := strings.Cut(rest, ":")
	seconds, err := strconv.ParseInt(at, 10, 64)
	if kind != scheme || !ok || err != nil || g.Address == nil || g.Address() == "" {
		return false
	}
	if d := time.Since(time.Unix(seconds, 0)); d > skew || d < -skew {
		return false
	}
	return hmac.Equal([]byte(given), []byte(mac(r, token, g.Address(), at)))
}
