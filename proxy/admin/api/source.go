package api

import "context"

// Source has the answers. Its methods are safe for concurrent use, and end with ctx.
// Slices in answers are not nil.
type Source interface {
	Cluster(ctx context.Context) Cluster
	Rules(ctx context.Context) Rules
	Limits(ctx context.Context) Limits
	// Sessions returns the page of the sessions that match.
	Sessions(ctx context.Context, q Query) Sessions
	// Refusals returns the page of the refusals that match, newest first. It ignores
	// Query.Sort and Query.State.
	Refusals(ctx context.Context, q Query) Refusals
}
