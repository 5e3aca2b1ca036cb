package peers_test

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"usher/proxy/admin/api"
	"usher/proxy/admin/peers"
)

// text answers each request with a text.
func text(body string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, body) })
}

// A replica that gives no answer, or none that can be used, is named with the reason. It
// does not keep the answer of the others for longer than its time.
func TestMissing(t *testing.T) {
	for what, c := range map[string]struct {
		peer  peers.Peer
		at    http.Handler
		state string
		says  string // "": it is not missing
		after time.Duration
	}{
		"it answers":                     {peers.Peer{}, (&replica{name: "web2"}).listener("web2"), api.Alive, "", 0},
		"it hangs":                       {peers.Peer{}, hangs, api.Silent, "no answer within 1s", time.Second},
		"nobody listens":                 {peers.Peer{}, nil, api.Silent, "refused", 0},
		"nobody can ask it":              {peers.Peer{Silent: "no admin listener"}, nil, api.Silent, "no admin listener", 0},
		"another replica is there":       {peers.Peer{}, (&replica{name: "web9"}).listener("web2"), api.Silent, "another replica", 0},
		"it is none of this API":         {peers.Peer{}, text("<html>"), api.Silent, "none of this API", 0},
		"it is too much":                 {peers.Peer{}, text(strings.Repeat(" ", api.MaxBody+1)), api.Silent, "more than", 0},
		"it tells of nobody":             {peers.Peer{}, text("{}"), api.Silent, "of 0 replicas", 0},
		"it tells of others":             {peers.Peer{}, text(`{"replicas":[{},{}]}`), api.Silent, "of 2 replicas", 0},
		"it is dead, and hangs":          {peers.Peer{Dead: true}, hangs, api.Dead, "no answer within 250ms", 250 * time.Millisecond},
		"it is dead, and nobody listens": {peers.Peer{Dead: true}, nil, api.Dead, "", 0},
		"its lease has ended":            {peers.Peer{Dead: true}, (&replica{name: "web2"}).listener("web2"), api.Alive, "", 0},
	} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c.peer.Name = "web2"
				web3 := (&replica{name: "web3", ids: []string{"c1"}}).listener("web3")
				all := cluster(&replica{name: "web1"}, network{"web2": c.at, "web3": web3}, c.peer, peers.Peer{Name: "web3"})
				began := time.Now()
				a := all.Cluster.Cluster(t.Context())
				if took := time.Since(began); took != c.after {
					t.Errorf("it took %v, want %v", took, c.after)
				}
				if c.says == "" && len(a.Missing) > 0 ||
					c.says != "" && (len(a.Missing) != 1 || a.Missing[0].Replica != "web2" || !strings.Contains(a.Missing[0].Error, c.says)) {
					t.Errorf("missing %+v, want %q", a.Missing, c.says)
				}
				if len(a.Replicas) != 3 || a.Replicas[1].State != c.state || a.Replicas[2].Sessions != 1 || (a.Health == api.OK) != (c.state == api.Alive) {
					t.Errorf("%+v", a)
				}
			})
		})
	}
}

// Who writes a card with an address of its own gets requests that are signed for this
// address. They are worth nothing at another replica.
func TestForgedCard(t *testing.T) {
	victim := &replica{name: "web2", ids: []string{"b1"}, ends: []string{"b1"}}
	var stolen []string
	thief := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		stolen = append(stolen, r.Header.Get("Authorization"))
		victim.listener("web2").ServeHTTP(w, r)
	})
	c := cluster(&replica{name: "web1"}, network{"thief": thief}, peers.Peer{Name: "web2", Address: "thief"})
	a := c.Sessions(t.Context(), api.Query{Limit: 9})
	if a.Total != 0 || len(a.Missing) != 1 || !strings.Contains(a.Missing[0].Error, "signature") {
		t.Errorf("reading: %+v", a)
	}
	ended := c.End(t.Context(), api.Ending{Session: "b1"}, "192.0.2.9")
	if len(ended.Ended) != 0 || len(ended.Missing) != 1 || !strings.Contains(ended.Missing[0].Error, "signature") {
		t.Errorf("writing: %+v", ended)
	}
	if len(stolen) != 2 || strings.Contains(strings.Join(stolen, ""), token) {
		t.Errorf("the thief has got %q", stolen)
	}
}

// A change is told of even if a replica takes as long for it as it may.
func TestSlowChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := func(takes time.Duration) peers.Writer {
			return trio(&replica{name: "web1", ends: []string{"a1"}}, &replica{name: "web2", ends: []string{"b1"}, takes: takes}, &replica{name: "web3", ends: []string{"c1"}})
		}
		c := slow(10 * time.Second)
		a := c.End(t.Context(), api.Ending{NotAdmitted: true}, "192.0.2.9")
		slices.Sort(a.Ended)
		if !slices.Equal(a.Ended, []string{"a1", "b1", "c1"}) || len(a.Missing) > 0 {
			t.Errorf("%+v", a)
		}
		if a = c.End(t.Context(), api.Ending{Session: "c1"}, "192.0.2.9"); !slices.Equal(a.Ended, []string{"c1"}) || len(a.Missing) != 1 || a.Missing[0].Replica != "web2" {
			t.Errorf("one session: %+v", a)
		}
		if a, err := slow(5*time.Second).Drain(t.Context(), "web2", true, "192.0.2.9"); err != nil || a.Changed.State != api.Draining || a.Changed.Name != "web2" || a.Replica != "web1" {
			t.Errorf("%+v, %v", a, err)
		}
		c = slow(time.Minute)
		var failed *api.FailedError
		if _, err := c.Drain(t.Context(), "web2", true, "192.0.2.9"); !errors.As(err, &failed) || failed.Code != http.StatusServiceUnavailable || !strings.Contains(failed.Answer.Error, "may do it later") {
			t.Errorf("a replica that hangs: %v", err)
		}
		if _, err := c.Drain(t.Context(), "web9", true, "192.0.2.9"); !errors.As(err, &failed) || failed.Code != http.StatusNotFound {
			t.Errorf("a replica that is not: %v", err)
		}
		time.Sleep(2 * time.Minute) // of the clock of the test: until what was asked for ends
	})
}

// A replica that was killed and started again, at the same address, is one replica, and
// nothing of it is missing.
func TestStartedAgain(t *testing.T) {
	again := (&replica{name: "started-again", ids: []string{"c1"}}).listener("web2")
	all := cluster(&replica{name: "web1"}, network{"web2": again},
		peers.Peer{Name: "web2", Dead: true}, peers.Peer{ID: "started-again", Name: "web2", Address: "web2"})
	if a := all.Cluster.Cluster(t.Context()); len(a.Replicas) != 2 || len(a.Missing) > 0 || a.Health != api.OK {
		t.Errorf("%+v", a)
	}
	if a := all.Cluster.Sessions(t.Context(), api.Query{Limit: 10}); a.Total != 1 || len(a.Missing) > 0 {
		t.Errorf("%+v", a)
	}
}
