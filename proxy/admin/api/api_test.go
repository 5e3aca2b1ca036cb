package api_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"usher/proxy/admin/api"
	"usher/proxy/record"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// source is a replica with a few sessions and refusals.
type source struct{ name string }

func (s source) answer() api.Answer {
	return api.Answer{Time: time.Unix(1700000000, 0).UTC(), Replica: s.name, Missing: []api.Missing{}}
}

func (s source) Cluster(context.Context) api.Cluster { return api.Cluster{Answer: s.answer()} }

func (s source) Rules(context.Context) api.Rules { return api.Rules{Answer: s.answer()} }

func (s source) Limits(context.Context) api.Limits { return api.Limits{Answer: s.answer()} }

func (s source) Sessions(_ context.Context, q api.Query) api.Sessions {
	a := api.Sessions{Answer: s.answer(), Offset: q.Offset}
	a.Sessions, a.Total = q.PickSessions(running())
	return a
}

func (s source) Refusals(_ context.Context, q api.Query) api.Refusals {
	a := api.Refusals{Answer: s.answer(), Offset: q.Offset}
	a.Refusals, a.Total = q.PickRefusals(refusals())
	return a
}

func session(id int) record.Session {
	return record.Session{
		ID: fmt.Sprintf("s-%d", id), Replica: []string{"web1", "web2"}[id%2], Generation: "g5-9f31c2ab",
		Client: netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(id)}), 4000), User: []string{"", "ann", "bob"}[id%3],
		ClientRule: "c1", Rule: fmt.Sprintf("s%d", 1+id%2), RuleName: []string{"web", "mail"}[id%2],
		Target: []string{"www.example:443", "MAIL.example:25"}[id%2], Began: time.Unix(1700000000+int64(id), 0), BytesUp: int64(100 - id),
	}
}

func running() (list []record.Running) {
	for id := range 6 {
		list = append(list, record.Running{Session: session(id), State: record.Relaying, IdleSeconds: float64(id)})
	}
	list[5].State = record.Opening
	return list
}

func refusals() (list []record.End) {
	for id := range 4 {
		list = append(list, record.End{
			Session: session(id), Time: time.Unix(1700000000+int64(id), 0), Reason: []string{"limit", "blocked"}[id%2], Refused: true,
		})
	}
	return list
}

func serve(t *testing.T) *api.Client {
	t.Helper()
	srv := httptest.NewServer(api.Handler{Local: source{"web1"}, Cluster: source{"all"}, Events: http.NotFoundHandler()}.Routes())
	t.Cleanup(srv.Close)
	return &api.Client{Address: srv.URL}
}

func TestQueriesOfSessions(t *testing.T) {
	c := serve(t)
	for query, want := range map[api.Query]string{
		{}:                               "0 1 2 3 4 5",
		{Descending: true}:               "5 4 3 2 1 0",
		{Offset: 2, Limit: 2}:            "2 3",
		{Offset: 100}:                    "",
		{Sort: "bytes", Limit: 2}:        "5 4",
		{Sort: "idle", Descending: true}: "5 4 3 2 1 0",
		{Sort: "user"}:                   "0 3 1 4 2 5",
		{Rule: "s2"}:                     "1 3 5",
		{Rule: "web"}:                    "0 2 4",
		{Rule: "c1", User: "ann"}:        "1 4",
		{Client: netip.MustParsePrefix("192.0.2.2/31")}: "2 3",
		{Target: "mail.example"}:                        "1 3 5",
		{Replica: "web2"}:                               "1 3 5",
		{Generation: "g5-9f31c2ab", Limit: 1}:           "0",
		{Generation: "g4-00000000"}:                     "",
		{State: record.Opening}:                         "5",
		{Search: "BOB"}:                                 "2 5",
		{Search: "192.0.2.3"}:                           "3",
	} {
		a, err := c.Sessions(t.Context(), query)
		var ids []string
		for _, s := range a.Sessions {
			ids = append(ids, strings.TrimPrefix(s.ID, "s-"))
		}
		if got := strings.Join(ids, " "); err != nil || got != want || a.Replica != "all" {
			t.Errorf("%+v: %q %v, want %q", query, got, err, want)
		}
		if query.Offset == 0 && query.Limit == 0 && a.Total != len(ids) {
			t.Errorf("%+v: total %d, and %d sessions", query, a.Total, len(ids))
		}
	}
}

func TestQueriesOfRefusals(t *testing.T) {
	c := serve(t)
	c.Local = true
	a, err := c.Refusals(t.Context(), api.Query{Reason: "limit", Limit: 1})
	if err != nil || a.Replica != "web1" || a.Total != 2 || len(a.Refusals) != 1 || a.Refusals[0].ID != "s-2" {
		t.Errorf("%+v, %v", a, err)
	}
}

func TestMistakesInQueries(t *testing.T) {
	c := serve(t)
	for query, want := range map[api.Query]string{
		{State: "sleeping"}:         `state "sleeping" is none of negotiating, opening`,
		{Reason: "lmit"}:            `reason "lmit" is none of auth, auth_throttle`,
		{Sort: "age"}:               `sort "age" is none of began, bytes`,
		{Limit: 1001}:               "limit 1001 is above 1000",
		{Limit: -1}:                 `limit "-1" is no number from 1 to`,
		{Offset: api.MaxOffset + 1}: `is no number from 0 to 10000`,
		{Search: strings.Repeat("a", 9), Sort: "\u202e"}: `\u202e`,
	} {
		_, err := c.Sessions(t.Context(), query)
		var failed *api.FailedError
		if !errors.As(err, &failed) || failed.Code != 400 || !strings.Contains(err.Error(), want) || failed.Answer.Remedy == "" {
			t.Errorf("%+v: %v, want %q", query, err, want)
		}
	}
}
