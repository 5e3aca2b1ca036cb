package peers_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"usher/proxy/admin/access"
	"usher/proxy/admin/api"
	"usher/proxy/admin/peers"
	"usher/proxy/record"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// replica answers for itself alone.
type replica struct {
	name   string
	ids    []string // of its sessions and refusals, in the order in which they began
	limits []api.Limit
	gens   []api.Generation
	ends   []string      // sessions that it can end
	takes  time.Duration // for a change
}

func (r *replica) answer() api.Answer {
	return api.Answer{Time: time.Now(), Replica: r.name, Missing: []api.Missing{}}
}

func (r *replica) Cluster(context.Context) api.Cluster {
	return api.Cluster{Answer: r.answer(), Store: api.Store{Joined: true}, Replicas: []api.Replica{
		{ID: r.name, Name: r.name, State: api.Alive, Ready: true, Sessions: len(r.ids)},
	}}
}

func (r *replica) Rules(context.Context) api.Rules {
	return api.Rules{Answer: r.answer(), Generations: r.gens}
}

func (r *replica) Limits(context.Context) api.Limits {
	return api.Limits{Answer: r.answer(), Limits: slices.Clone(r.limits)}
}

func (r *replica) session(id string) record.Session {
	n := strings.Index("0123456789", id[len(id)-1:])
	return record.Session{ID: id, Replica: r.name, Began: time.Unix(1700000000+int64(n), 0)}
}

func (r *replica) Sessions(_ context.Context, q api.Query) api.Sessions {
	a := api.Sessions{Answer: r.answer(), Offset: q.Offset}
	var list []record.Running
	for _, id := range r.ids {
		list = append(list, record.Running{Session: r.session(id), State: record.Relaying})
	}
	a.Sessions, a.Total = q.PickSessions(list)
	return a
}

func (r *replica) Refusals(_ context.Context, q api.Query) api.Refusals {
	a := api.Refusals{Answer: r.answer(), Offset: q.Offset}
	var list []record.End
	for _, id := range r.ids {
		s := r.session(id)
		list = append(list, record.End{Session: s, Time: s.Began, Reason: "limit"})
	}
	a.Refusals, a.Total = q.PickRefusals(list)
	return a
}

func (r *replica) End(_ context.Context, which api.Ending, _ string) api.Ended {
	time.Sleep(r.takes)
	a := api.Ended{Answer: r.answer(), Ended: []string{}}
	for _, id := range r.ends {
		if which.NotAdmitted || which.Session == id {
			a.Ended = append(a.Ended, id)
		}
	}
	return a
}

func (r *replica) Drain(ctx context.Context, _ string, drain bool, _ string) (api.Changed, error) {
	time.Sleep(r.takes)
	row := r.Cluster(ctx).Replicas[0]
	if drain {
		row.State = api.Draining
	}
	return api.Changed{Answer: r.answer(), Changed: row}, nil
}

// listener answers as the admin listener of r does, which others reach at address.
func (r *replica) listener(address string) http.Handler {
	guard := &access.Guard{
		Token: func() (string, error) { return token, nil }, Address: func() string { return address }, Logger: quiet,
	}
	mux := http.NewServeMux()
	mux.Handle("GET /", guard.Reading(api.Handler{ID: r.name, Local: r, Cluster: r, Events: http.NotFoundHandler()}.Routes()))
	mux.Handle("POST /", guard.Writing(api.WriteHandler{ID: r.name, Local: r, Cluster: r, Who: access.Who, Rules: r.Rules, Logger: quiet}.Routes()))
	return mux
}

// network is what listens at each address. Nobody listens elsewhere.
type network map[string]http.Handler

// RoundTrip implements http.RoundTripper.
func (n network) RoundTrip(r *http.Request) (*http.Response, error) {
	h := n[r.URL.Host]
	if h == nil {
		return nil, fmt.Errorf("dial %s: %w", r.URL.Host, syscall.ECONNREFUSED)
	}
	r.RemoteAddr = "192.0.2.1:4000"
	done := make(chan *http.Response, 1)
	go func() {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		done <- w.Result()
	}()
	select {
	case resp := <-done:
		return resp, nil
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
}

// hangs never answers.
var hangs = http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })

const token = "token-of-the-admin-listener"

var quiet = slog.New(slog.DiscardHandler)

// cluster is that of web1, and of others whose address is their name.
func cluster(web1 *replica, n network, others ...peers.Peer) peers.Writer {
	for i, p := range others {
		if p.Address == "" && p.Silent == "" {
			others[i].Address = p.Name
		}
		if p.ID == "" {
			others[i].ID = p.Name
		}
	}
	c := peers.New(peers.Options{
		Local: web1,
		Peers: func() []peers.Peer { return others },
		Ask: func(p peers.Peer) *api.Client {
			return &api.Client{
				Address: p.Address, Local: true, ID: p.ID, HTTP: &http.Client{Transport: n},
				Authorize: func(r *http.Request) { access.Sign(r, token, p.Address, time.Now()) },
			}
		},
	})
	return peers.Writer{Cluster: c, Local: web1, Name: web1.name}
}

// trio is a cluster of three replicas that all answer.
func trio(web1, web2, web3 *replica) peers.Writer {
	return cluster(web1, network{"web2": web2.listener("web2"), "web3": web3.listener("web3")}, peers.Peer{Name: "web3"}, peers.Peer{Name: "web2"})
}

// A page is one of all replicas together.
func TestPages(t *testing.T) {
	c := trio(&replica{name: "web1", ids: []string{"a0", "a3", "a6"}}, &replica{name: "web2", ids: []string{"b1", "b4"}}, &replica{name: "web3", ids: []string{"c2", "c5"}})
	for _, q := range []struct {
		api.Query
		want  string // sessions
		total int
	}{
		{api.Query{Limit: 100}, "a0 b1 c2 a3 b4 c5 a6", 7},
		{api.Query{Limit: 2, Offset: 3}, "a3 b4", 7},
		{api.Query{Limit: 3, Offset: 1, Descending: true}, "c5 b4 a3", 7},
		{api.Query{Limit: 9, Offset: 7}, "", 7},
		{api.Query{Limit: 9, Replica: "web2"}, "b1 b4", 2},
	} {
		a := c.Sessions(t.Context(), q.Query)
		var got []string
		for _, s := range a.Sessions {
			got = append(got, s.ID)
		}
		if strings.Join(got, " ") != q.want || a.Total != q.total || a.Offset != q.Offset || a.Replica != "web1" || len(a.Missing) > 0 {
			t.Errorf("%+v: %q, %+v", q, got, a)
		}
	}
	a := c.Refusals(t.Context(), api.Query{Limit: 2, Offset: 1})
	if len(a.Refusals) != 2 || a.Refusals[0].ID != "c5" || a.Refusals[1].ID != "b4" || a.Total != 7 || a.Offset != 1 {
		t.Errorf("%+v", a)
	}
}

// What replicas know of a limit is added up, and what the store knows is not.
func TestLimitsTogether(t *testing.T) {
	ann, bob := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	at := time.Unix(1700000000, 0).UTC()
	of := func(name string, n int) api.Limit {
		return api.Limit{
			Rule: "s1", Digest: "d5", Generation: "g5-d5", Current: true, Max: 9, Sessions: 7, Shares: []api.Share{{Replica: name, Sessions: n}},
			Keys:        []api.Key{{Key: "ann", Sessions: n, Max: 4, Shares: []api.Share{{Replica: name, Sessions: n}}}, {Key: name, Sessions: 1}},
			Holders:     []record.Holder{{Client: ann, Sessions: n}, {Client: bob, User: name, Sessions: 1}},
			Refused:     uint64(n),
			WouldRefuse: uint64(10 * n), Highest: int64(n), HighestAt: at.Add(time.Duration(n) * time.Second),
		}
	}
	other := of("web3", 4)
	other.Digest, other.Generation, other.Sessions = "d4", "g4-d4", 4 // in force on web3 alone
	other.Keys = nil
	for i := range 12 {
		other.Keys = append(other.Keys, api.Key{Key: fmt.Sprint(i), Sessions: i})
	}
	c := trio(&replica{name: "web1", limits: []api.Limit{of("web1", 2)}}, &replica{name: "web2", limits: []api.Limit{of("web2", 3)}}, &replica{name: "web3", limits: []api.Limit{other}})
	a := c.Limits(t.Context())
	if len(a.Limits) != 2 || len(a.Missing) > 0 {
		t.Fatalf("%+v", a)
	}
	l := a.Limits[0]
	if l.Sessions != 7 || l.Refused != 5 || l.WouldRefuse != 50 || l.Highest != 3 || !l.HighestAt.Equal(at.Add(3*time.Second)) || !l.Current {
		t.Errorf("%+v", l)
	}
	if !slices.Equal(l.Shares, []api.Share{{Replica: "web1", Sessions: 2}, {Replica: "web2", Sessions: 3}}) {
		t.Errorf("shares %+v", l.Shares)
	}
	if len(l.Keys) != 3 || l.Keys[0].Key != "ann" || l.Keys[0].Sessions != 5 || l.Keys[0].Max != 4 || len(l.Keys[0].Shares) != 2 {
		t.Errorf("keys %+v", l.Keys)
	}
	if len(l.Holders) != 3 || l.Holders[0] != (record.Holder{Client: ann, Sessions: 5}) {
		t.Errorf("holders %+v", l.Holders)
	}
	if l = a.Limits[1]; l.Generation != "g4-d4" || l.Current || l.Sessions != 4 || len(l.Keys) != api.KeysOfAnswer || l.Keys[0].Key != "11" {
		t.Errorf("%+v", l)
	}
}

// A replica that has more keys than it tells makes the sums of keys and holders partial,
// unless it is the only one.
func TestPartialKeys(t *testing.T) {
	with := func(name string, keys int) *replica {
		l := api.Limit{Rule: "s1", Digest: "d5"}
		for i := range keys {
			l.Keys = append(l.Keys, api.Key{Key: fmt.Sprint(i), Sessions: 1})
		}
		l.KeepForOthers()
		return &replica{name: name, limits: []api.Limit{l}}
	}
	const few, many = api.KeysOfReplica, api.KeysOfReplica + 1
	for _, c := range []struct {
		cluster peers.Writer
		want    bool
	}{
		{trio(with("web1", few), with("web2", few), with("web3", few)), false},
		{trio(with("web1", few), with("web2", many), with("web3", few)), true},
		{trio(with("web1", many), with("web2", few), with("web3", few)), true},
		{cluster(with("web1", many), network{}), false},
	} {
		if got := c.cluster.Limits(t.Context()).Limits[0].Partial; got != c.want {
			t.Errorf("partial is %v, want %v", got, c.want)
		}
	}
}

// A generation is one, whatever number replicas know it by.
func TestRulesTogether(t *testing.T) {
	of := func(digest string, number uint64, n int, in ...string) api.Generation {
		return api.Generation{
			Label: fmt.Sprintf("g%d-%s", number, digest), Number: number, Digest: digest, Current: len(in) > 0, Replicas: in, Sessions: n,
			Rules: []api.Rule{{Rule: "s1", Sessions: n}},
		}
	}
	c := trio(
		&replica{name: "web1", gens: []api.Generation{of("d5", 0, 1, "web1"), of("d3", 3, 1)}},
		&replica{name: "web2", gens: []api.Generation{of("d5", 5, 2, "web2")}},
		&replica{name: "web3", gens: []api.Generation{of("d4", 4, 3, "web3"), of("d3", 3, 4)}},
	)
	a := c.Rules(t.Context())
	var got []string
	for _, g := range a.Generations {
		got = append(got, fmt.Sprint(g.Label, " ", g.Current, g.Replicas, g.Sessions, g.Rules[0].Sessions))
	}
	want := []string{"g5-d5 true [web1 web2] 3 3", "g4-d4 false [web3] 3 3", "g3-d3 false [] 5 5"}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}
