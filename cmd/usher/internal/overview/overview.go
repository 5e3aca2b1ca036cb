// Package overview answers the questions of the API for this replica alone.
package overview

import (
	"context"
	"time"

	"usher/limiter"
	"usher/proxy"
	"usher/proxy/admin"
	"usher/proxy/admin/api"
	"usher/proxy/record"
)

// Server is the part of proxy.Server that has sessions.
type Server interface {
	Generations() []proxy.Generation
	Running() []record.Running
	Refusals() []record.End
	RefusedLately(counter string) uint64
}

// Options are what a Local knows. All fields are required. The functions are called
// concurrently.
type Options struct {
	ID       string // of this replica in the store
	Name     string // USHER_REPLICA
	Cluster  string // USHER_CLUSTER
	LeaseTTL time.Duration
	Strict   bool          // USHER_LEASE_LOSS=close
	Admit    bool          // USHER_STORE_DOWN=admit
	Address  func() string // where other replicas reach this one
	Writing  bool          // a token is set
	Server   Server
	Status   func() limiter.Status
	Highest  func(counter string) limiter.Highest
	// Snapshot returns what /status shows. It counts the sessions of each rule, so only
	// what needs that calls it.
	Snapshot func() admin.Status
}

// Local answers for this replica alone.
type Local struct{ o Options }

var _ api.Source = (*Local)(nil)

// New returns a Local.
func New(o Options) *Local { return &Local{o} }

// answer returns the part of an answer that all have.
func (l *Local) answer() api.Answer {
	return api.Answer{Time: time.Now().UTC(), Replica: l.o.Name, Missing: []api.Missing{}}
}

// Cluster implements api.Source.
func (l *Local) Cluster(context.Context) api.Cluster {
	now := l.o.Snapshot()
	a := api.Cluster{
		Answer: l.answer(), Cluster: l.o.Cluster, Writing: l.o.Writing, Store: l.store(now.Store),
		Replicas: []api.Replica{l.replica(now)},
	}
	a.Judge()
	return a
}

func (l *Local) store(s admin.Store) api.Store {
	return api.Store{
		Address: s.Address, Joined: s.Joined, Recovering: s.Recovering, Mismatch: s.Mismatch,
		Failure: s.Failure, FailingSince: s.FailingSince, LeaseSeconds: l.o.LeaseTTL.Seconds(), Strict: l.o.Strict, AdmitLocally: l.o.Admit,
	}
}

func (l *Local) replica(now admin.Status) api.Replica {
	r := api.Replica{
		ID: l.o.ID, Name: l.o.Name, Address: l.o.Address(), Version: now.Version, State: api.Alive, Started: now.Started.UTC(), Seen: time.Now().UTC(),
		Generation: now.Rules.Generation, Digest: now.Rules.Digest, Sessions: now.Sessions, Ready: now.Ready, Reason: now.Reason,
		ReloadError: now.Rules.ReloadErr,
	}
	if now.Reason == admin.Draining || now.Reason == admin.Drained {
		r.State = api.Draining
	}
	return r
}

// Sessions implements api.Source.
func (l *Local) Sessions(_ context.Context, q api.Query) api.Sessions {
	a := api.Sessions{Answer: l.answer(), Offset: q.Offset}
	a.Sessions, a.Total = q.PickSessions(l.o.Server.Running())
	return a
}

// Refusals implements api.Source.
func (l *Local) Refusals(_ context.Context, q api.Query) api.Refusals {
	a := api.Refusals{Answer: l.answer(), Offset: q.Offset}
	a.Refusals, a.Total = q.PickRefusals(l.o.Server.Refusals())
	return a
}
