package proxy_test

import (
	"context"
	"testing"
	"time"

	"usher/limiter"
	"usher/proxy"
	"usher/proxy/socks"
	"usher/store/memstore"
)

// When a rule counts as many addresses as it may, sessions of other addresses are
// refused with their own reason. Sessions of counted addresses are not.
func TestThrottleKeysAreBounded(t *testing.T) {
	to := echo(t)
	st := memstore.New()
	l := limiter.New(limiter.Options{Store: st, TTL: 10 * time.Second, StoreWait: time.Second, MaxKeys: 1})
	t.Cleanup(func() {
		leaving, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := l.Close(leaving); err != nil {
			t.Error(err)
		}
	})
	w := newWorld(t, "client pass { from: 0/0 to: 0/0 }\nsocks pass { from: 0/0 to: 0/0\nsession.state.key: from\nsession.state.throttle: 2/3600\nrule.name: web }\n",
		func(o *proxy.Options, _ *proxy.Policy) { o.Limiter = l })
	for i, c := range []struct {
		from string
		want socks.Code
	}{
		{"127.0.0.2", socks.Succeeded}, {"127.0.0.3", socks.GeneralFailure}, {"127.0.0.2", socks.Succeeded},
	} {
		if code := w.asks(c.from, socks.Request{Command: socks.Connect, Addr: to}).code(); code != c.want {
			t.Errorf("request %d, from %s: code %d, want %d", i, c.from, code, c.want)
		}
	}
	const text = "session.state.throttle: 2/3600 for 127.0.0.3: too many other addresses or users are counted (USHER_THROTTLE_KEYS, or maxmemory of Redis)"
	if line := w.reason("throttle_keys"); line["error"] != text {
		t.Errorf("error %q, want %q", line["error"], text)
	}
	if n := w.metric("usher_sessions_rejected_total", "rule", "web", "reason", "throttle_keys"); n != 1 {
		t.Errorf("%v refusals counted, want 1", n)
	}
}
