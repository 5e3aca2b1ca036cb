package serve

import (
	"context"
	"sync"
)

// tasks run in the background until they are cancelled.
type tasks struct {
	ctx     context.Context // ends when the tasks are to end
	cancel  context.CancelFunc
	running *sync.WaitGroup
}

func newTasks() tasks {
	ctx, cancel := context.WithCancel(context.Background())
	return tasks{ctx: ctx, cancel: cancel, running: new(sync.WaitGroup)}
}

func (t tasks) run(task func()) { t.running.Go(task) }

func (t tasks) wait() { t.running.Wait() }
