package limiter

import (
	"time"

	"usher/store"
)

// operation is what a request asks of the store.
type operation string

const (
	opDial    operation = "dial"
	opJoin    operation = "join"
	opBatch   operation = "batch"
	opObserve operation = "observe"
	opReap    operation = "reap"
	opMature  operation = "mature"
)

// request is one thing for the driver to do.
type request struct {
	op     operation
	epoch  uint64
	sent   time.Duration // when it was sent first: a resend does not renew it
	acked  store.Token   // when it was sent
	join   store.Join
	batch  store.Batch
	reap   store.Reap
	mature store.Mature
	watch  []string
	stated []stated // join and batch: what each entry was made of
}

// outcome is what became of a request.
type outcome struct {
	err    error
	join   store.JoinReply
	batch  store.BatchReply
	roster store.Roster
	reap   store.ReapReply
	young  bool
}
