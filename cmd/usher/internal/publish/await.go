package publish

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"usher/cmd/usher/internal/exit"
	"usher/cmd/usher/internal/rollout"
	"usher/proxy/printable"
)

// await waits until the generation is in force, and says so.
func (p *Publisher) await(ctx context.Context) error {
	r, began := &p.result, time.Now()
	if p.o.Wait <= 0 {
		return p.say(fmt.Sprintf("generation %d is published", r.Number))
	}
	ctx, cancel := context.WithTimeout(ctx, p.o.Wait)
	defer cancel()
	watch := rollout.Watch{Number: r.Number, TTL: p.o.Config.LeaseTTL, Dial: p.o.Dial, Progress: func(s rollout.Standing) {
		fmt.Fprintln(p.o.Progress, printable.Text(s.String()))
	}}
	conn := p.conn
	p.conn = nil // Wait closes it
	standing, err := watch.Wait(ctx, conn, p.seen)
	r.Seconds = time.Since(began).Seconds()
	r.On, r.Refusing = append(r.On, standing.On...), append(r.Refusing, standing.Refusing...)
	r.Behind, r.Gone = append(r.Behind, standing.Behind...), append(r.Gone, standing.Gone...)
	r.Silent = append(r.Silent, standing.Silent...)
	r.Done = err == nil && standing.Number != 0 && standing.Done()
	p.explain(standing)
	superseded := rollout.SupersededError{}
	switch {
	case errors.As(err, &superseded):
		return fmt.Errorf("generation %d is published, but %w", r.Number, err)
	case err != nil:
		return fmt.Errorf("generation %d is published, but it is not known to be in force everywhere: %w", r.Number, err)
	case !r.Done:
		return exit.CodeError(1)
	case len(standing.On) == 0:
		return p.say(fmt.Sprintf("generation %d is published; no replica follows the store yet", r.Number))
	}
	return p.say(fmt.Sprintf("generation %d is in force on %s", r.Number, rollout.Replicas(len(standing.On))))
}

// explain says which replicas are not on the generation, and why.
func (p *Publisher) explain(s rollout.Standing) {
	w := p.o.Progress
	for _, r := range s.Refusing {
		fmt.Fprintf(w, "%s keeps generation %d: %s\n", printable.Text(r.Name), r.Number, printable.Lines(r.Reason))
	}
	for _, r := range s.Behind {
		fmt.Fprintf(w, "%s is still on generation %d after %v; it takes generation %d when it reaches the store\n", printable.Text(r.Name), r.Number, p.o.Wait, s.Number)
	}
	for _, r := range s.Gone {
		fmt.Fprintf(w, "%s is gone: its lease ended before it took generation %d. If it still runs, it uses generation %d for rules without a limit, and takes the newest one before it admits anybody by a rule with a limit\n",
			printable.Text(r.Name), s.Number, r.Number)
	}
	if len(s.Silent) > 0 {
		fmt.Fprintf(w, "warning: members of the cluster do not follow the store, as they have rule files of their own: %s\n", printable.Text(strings.Join(s.Silent, ", ")))
	}
}

func (p *Publisher) say(line string) error {
	_, err := io.WriteString(p.o.Out, line+"\n")
	return err
}
