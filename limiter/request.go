package limiter

import (
	"time"

	"usher/store"
)

// operation is what a request asks of the store.
type operation string

const (
	opDial        operation = "dial"
	opJoin        operation = "join"
	opBatch       operation = "batch"
	opObserve     operation = "observe"
	opExpire      operation = "expire"
	opEndRecovery operation = "end_recovery"
)

// request is one thing for the driver to do.
type request struct {
	op     operation
	epoch  uint64
	sent   time.Duration // when it was sent first: a resend does not renew it
	acked  store.Token   // when it was sent
	join   store.Join
	batch  store.Batch
	expire store.Expire
	mature store.EndRecovery
	watch  []string
	stated []stated // join and batch: what each entry was made of
}

// outcome is what became of a request.
type outcome struct {
	err        error
	join       store.JoinReply
	batch      store.BatchReply
	membership store.Membership
	expire     store.ExpireReply
	recovering bool
}
