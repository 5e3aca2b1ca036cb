package access_test

import (
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"usher/proxy/admin/access"
	"usher/proxy/admin/api"
)

const token = "a token of 24 characters"

func guard() *access.Guard {
	return &access.Guard{
		Token:   func() (string, error) { return token, nil },
		Address: func() string { return "192.0.2.7:9090" },
		Logger:  slog.New(slog.DiscardHandler),
	}
}

// request is one to 192.0.2.7:9090 from an address, with headers as name, value ...
func request(from string, headers ...string) *http.Request {
	r := httptest.NewRequest(http.MethodPost, "http://192.0.2.7:9090/api/v1/drain?local=1", nil)
	r.RemoteAddr = from
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	return r
}

func code(t *testing.T, wrap func(http.Handler) http.Handler, r *http.Request) int {
	t.Helper()
	w := httptest.NewRecorder()
	wrap(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })).ServeHTTP(w, r)
	if w.Code == http.StatusNoContent {
		return w.Code
	}
	var e api.Error
	if err := json.Unmarshal(w.Body.Bytes(), &e); err != nil || e.Error == "" || e.Remedy == "" || strings.Contains(w.Body.String(), token) {
		t.Errorf("%s: %v", w.Body, err)
	}
	return w.Code
}

const (
	near, near6 = "127.0.0.1:5", "[::1]:5"
	far         = "192.0.2.1:5"
	bearer      = "Bearer " + token
)

func basic(password string) string {
	r := request(far)
	r.SetBasicAuth("anybody", password)
	return r.Header.Get("Authorization")
}

func TestWithToken(t *testing.T) {
	g := guard()
	for _, c := range []struct {
		what                     string
		r                        *http.Request
		reading, writing, profil int
	}{
		{"from here", request(near), 204, 401, 204},
		{"from here, IPv6", request(near6), 204, 401, 204},
		{"through a proxy here", request(near, "X-Forwarded-For", "203.0.113.1"), 401, 401, 401},
		{"from afar", request(far), 401, 401, 401},
		{"with the token", request(far, "Authorization", bearer), 204, 204, 204},
		{"with the token in other case", request(far, "Authorization", "bearer "+token), 204, 204, 204},
		{"a wrong token", request(far, "Authorization", bearer+"x"), 401, 401, 401},
		{"a shorter token", request(far, "Authorization", bearer[:len(bearer)-1]), 401, 401, 401},
		{"no token", request(far, "Authorization", "Bearer "), 401, 401, 401},
		{"another scheme", request(far, "Authorization", "Digest "+token), 401, 401, 401},
		{"as a browser", request(far, "Authorization", basic(token)), 204, 401, 204},
		{"as a browser, wrong", request(far, "Authorization", basic("wrong")), 401, 401, 401},
	} {
		for name, is := range map[string][2]int{
			"reading": {code(t, g.Reading, c.r), c.reading}, "writing": {code(t, g.Writing, c.r), c.writing}, "profiling": {code(t, g.Profiling, c.r), c.profil},
		} {
			if is[0] != is[1] {
				t.Errorf("%s, %s: %d, want %d", c.what, name, is[0], is[1])
			}
		}
	}
}

func TestWithoutToken(t *testing.T) {
	g := guard()
	g.Token = nil
	for from, profiling := range map[string]int{near: 204, far: 403} {
		r := request(from, "Authorization", bearer)
		if got := code(t, g.Reading, r); got != 204 {
			t.Errorf("reading from %s: %d", from, got)
		}
		if got := code(t, g.Writing, r); got != 403 {
			t.Errorf("writing from %s: %d", from, got)
		}
		if got := code(t, g.Profiling, r); got != profiling {
			t.Errorf("profiles from %s: %d", from, got)
		}
	}
}

func TestUnreadableToken(t *testing.T) {
	g := guard()
	g.Token = func() (string, error) { return "", errors.New("no such file") }
	if got := code(t, g.Writing, request(far, "Authorization", "Bearer ")); got != 503 {
		t.Errorf("%d", got)
	}
}

func TestSameSite(t *testing.T) {
	g := guard()
	for origin, want := range map[string]int{
		"": 204, "http://192.0.2.7:9090": 204, "https://192.0.2.7:9090": 204,
		"http://192.0.2.7": 403, "http://192.0.2.7:80": 403, "http://evil.example": 403, "null": 403, "http://192.0.2.7:9090.evil.example": 403,
	} {
		r := request(near)
		if origin != "" {
			r.Header.Set("Origin", origin)
		}
		if got := code(t, g.SameSite, r); got != want {
			t.Errorf("origin %q: %d, want %d", origin, got, want)
		}
	}
	if got := code(t, g.SameSite, request(near, "Sec-Fetch-Site", "cross-site")); got != 403 {
		t.Errorf("cross-site: %d", got)
	}
}

// A signature is good for one request to one replica, and not for long.
func TestSignedRequests(t *testing.T) {
	g := guard()
	signed := func(token, address string, age time.Duration, change func(*http.Request)) *http.Request {
		r := request(far)
		access.Sign(r, token, address, time.Now().Add(-age))
		change(r)
		return r
	}
	same := func(*http.Request) {}
	for what, c := range map[string]struct {
		r    *http.Request
		want int
	}{
		"as it is":        {signed(token, "192.0.2.7:9090", 0, same), 204},
		"another token":   {signed("another", "192.0.2.7:9090", 0, same), 401},
		"another replica": {signed(token, "192.0.2.8:9090", 0, same), 401},
		"old":             {signed(token, "192.0.2.7:9090", 3*time.Minute, same), 401},
		"of the future":   {signed(token, "192.0.2.7:9090", -3*time.Minute, same), 401},
		"another method":  {signed(token, "192.0.2.7:9090", 0, func(r *http.Request) { r.Method = http.MethodPut }), 401},
		"another path":    {signed(token, "192.0.2.7:9090", 0, func(r *http.Request) { r.URL.Path = "/api/v1/undrain" }), 401},
		"another query":   {signed(token, "192.0.2.7:9090", 0, func(r *http.Request) { r.URL.RawQuery = "local=2" }), 401},
	} {
		if got := code(t, g.Writing, c.r); got != c.want {
			t.Errorf("%s: %d, want %d", what, got, c.want)
		}
	}
	w := httptest.NewRecorder()
	g.Writing(http.NotFoundHandler()).ServeHTTP(w, signed("another", "192.0.2.7:9090", 0, same))
	if !strings.Contains(w.Body.String(), "the same USHER_ADMIN_TOKEN on all replicas") {
		t.Errorf("a replica with another token is told: %s", w.Body)
	}
	if r := signed(token, "192.0.2.7:9090", 0, same); strings.Contains(r.Header.Get("Authorization"), token) {
		t.Error("the token is sent")
	}
}
