// Package publish puts rules into the store, from which all replicas of a cluster take
// them, and waits until they follow. It also lists what is published, and makes keys to
// sign rules with.
package publish

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"time"

	"usher/cmd/usher/internal/exit"
	"usher/cmd/usher/internal/policyfile"
	"usher/cmd/usher/internal/rollout"
	"usher/cmd/usher/internal/settings"
	"usher/cmd/usher/internal/validate"
	"usher/proxy/printable"
	"usher/store/published"
)

// Options say how to publish.
type Options struct {
	Config   settings.Config
	Accounts policyfile.Accounts // of the users and groups files, which rules may name
	Dial     func(context.Context) (published.Conn, error)
	Key      ed25519.PrivateKey // nil: do not sign
	Message  string             // why, at most published.MaxMessage bytes
	Wait     time.Duration      // for the replicas; 0: do not wait
	DryRun   bool               // publish nothing
	Out      io.Writer          // gets what changes, and the outcome
	Progress io.Writer          // gets findings, progress, and why a replica is not on the generation
}

// Result is the result of publishing.
type Result struct {
	Number    uint64             `json:"number"` // of the generation, 0 with --dry-run
	Digest    string             `json:"digest"`
	Before    uint64             `json:"before"` // the newest number before that, 0 if there was none
	Changes   bool               `json:"changes"`
	Diff      string             `json:"diff"`
	Published bool               `json:"published"` // false if it was there already
	Done      bool               `json:"done"`      // in force on all replicas that reach the store
	Seconds   float64            `json:"seconds"`   // from publishing to the last look
	On        []published.Report `json:"on"`
	Refusing  []published.Report `json:"refusing"`
	Behind    []published.Report `json:"behind"`
	Gone      []published.Report `json:"gone"`          // their leases ended before they took it
	Silent    []string           `json:"not_following"` // members with rule files of their own
}

// storeTimeout bounds the requests to the store.
const storeTimeout = 10 * time.Second

// Publisher is a connection to the store, and what was published there when it was
// opened. It is not safe for concurrent use.
type Publisher struct {
	o      Options
	conn   published.Conn
	kept   []published.Kept // the newest first
	newest *published.Text  // nil: nothing is published, or it cannot be read
	seen   []published.Report
	result Result
}

// Open connects to the store, and reads what is published. The caller must close the
// Publisher.
func Open(ctx context.Context, o Options) (_ *Publisher, err error) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	p := &Publisher{o: o, result: Result{
		On: []published.Report{}, Refusing: []published.Report{}, Behind: []published.Report{}, Gone: []published.Report{}, Silent: []string{},
	}}
	if p.conn, err = o.Dial(ctx); err != nil {
		return nil, fmt.Errorf("the store: %w", err)
	}
	defer func() {
		if err != nil {
			p.Close()
		}
	}()
	if p.kept, err = p.conn.Generations(ctx); err != nil {
		return nil, fmt.Errorf("the store: %w", err)
	}
	if len(p.kept) == 0 {
		return p, nil
	}
	p.result.Before = p.kept[0].Number
	if p.kept[0].Unreadable == "" {
		p.newest, err = p.conn.Text(ctx, p.result.Before)
	}
	return p, err
}

// Close closes the connection.
func (p *Publisher) Close() {
	if p.conn != nil {
		p.conn.Close()
		p.conn = nil
	}
}

// Rollback publishes the rules of an older generation again. 0 is the generation before
// the newest. Result and error are those of Publish.
func (p *Publisher) Rollback(ctx context.Context, number uint64) (*Result, error) {
	if number == 0 {
		if len(p.kept) < 2 {
			return nil, errors.New("there is no older generation to go back to")
		}
		number = p.kept[1].Number
	}
	asking, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	old, err := p.conn.Text(asking, number)
	if err == nil && old != nil {
		err = old.Check(string(p.o.Config.Cluster))
	}
	if err != nil {
		return nil, fmt.Errorf("%s cannot be published again: %w; usher generations lists the others", published.Name(number), err)
	}
	if old == nil {
		return nil, fmt.Errorf("generation %d is not kept; usher generations lists those that are", number)
	}
	if p.o.Message == "" {
		p.o.Message = fmt.Sprintf("rollback to generation %d", number)
	}
	return p.Publish(ctx, published.Name(number), old.Rules)
}

// Publish checks a text, shows what changes, publishes it and waits. The result is nil
// if the text was not published, and nothing was to be tried only. The error is an
// exit.CodeError if Options.Progress has the reason.
func (p *Publisher) Publish(ctx context.Context, name, text string) (*Result, error) {
	report := validate.Text(ctx, name, []byte(text), p.o.Config, p.o.Accounts, nil)
	report.PrintFindings(p.o.Progress)
	if !report.Good {
		return nil, exit.CodeError(1)
	}
	if len(text) > published.MaxText {
		return nil, fmt.Errorf("the text has %d bytes; %d are allowed", len(text), published.MaxText)
	}
	p.compare(name, text, report.Digest)
	if p.o.DryRun {
		p.result.Done = true
		return &p.result, p.say("nothing is published (--dry-run)")
	}
	if err := p.put(ctx, text, report.Digest); err != nil {
		return nil, err
	}
	return &p.result, p.await(ctx)
}

// compare shows what changes.
func (p *Publisher) compare(name, text, digest string) {
	normal := func(name, text string) string {
		if set, _ := policyfile.Parse(name, []byte(text), p.o.Accounts); set != nil {
			return set.String()
		}
		return text
	}
	before := rollout.Side{Name: "nothing published"}
	switch {
	case p.newest != nil:
		before = rollout.Side{Name: published.Name(p.newest.Number), Rules: normal("", p.newest.Rules)}
	case p.result.Before != 0:
		before.Name = published.Name(p.result.Before) + ", which cannot be read"
	}
	r := &p.result
	r.Digest, r.Diff = digest, rollout.Diff(before, rollout.Side{Name: name, Rules: normal(name, text)})
	r.Changes = r.Diff != ""
	switch {
	case r.Changes:
		fmt.Fprint(p.o.Out, printable.Lines(r.Diff))
		if p.newest != nil && p.newest.Digest != digest {
			fmt.Fprintln(p.o.Progress, "note: the rules decide differently, so their limits start at 0; running sessions keep counting under the old rules")
		}
	case p.newest == nil || p.newest.Rules != text:
		fmt.Fprintln(p.o.Out, "only comments or the spelling change")
	default:
		fmt.Fprintln(p.o.Out, "nothing changes")
	}
}

// put publishes a text, unless it is the newest already.
func (p *Publisher) put(ctx context.Context, text, digest string) error {
	if p.newest != nil && len(p.newest.Signature) > 0 && p.o.Key == nil {
		return fmt.Errorf("%s is signed, and replicas may demand a signature; give the private key with --key", published.Name(p.newest.Number))
	}
	r := &p.result
	if p.newest != nil && p.newest.Rules == text && p.signedAlike() {
		r.Number = p.newest.Number
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	all, err := p.conn.Replicas(ctx)
	if err != nil {
		return err
	}
	p.seen = all.Reports
	number := r.Before
	for _, one := range all.Reports { // replicas take nothing older than theirs, whatever the store has lost
		number = max(number, one.Number, one.Refused)
	}
	t := published.New(number+1, string(p.o.Config.Cluster), digest, p.o.Message, text, time.Now())
	if p.o.Key != nil {
		t = t.Sign(p.o.Key)
	}
	if err := t.Check(t.Cluster); err != nil {
		return err
	}
	latest, ok, err := p.conn.Publish(ctx, t, r.Before)
	switch {
	case err != nil:
		return fmt.Errorf("publishing: %w; usher generations shows whether it succeeded", err)
	case !ok:
		return fmt.Errorf("generation %d was published meanwhile, and these rules were not; look at it with usher generations, and try again", latest)
	}
	r.Number, r.Published = t.Number, true
	return nil
}

// signedAlike reports whether the newest generation needs no other signature.
func (p *Publisher) signedAlike() bool {
	if p.o.Key == nil {
		return true
	}
	public, ok := p.o.Key.Public().(ed25519.PublicKey)
	return ok && p.newest.Verify([]ed25519.PublicKey{public}) == nil
}
