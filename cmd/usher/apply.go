package main

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"usher/cmd/usher/internal/exit"
	"usher/cmd/usher/internal/policyfile"
	"usher/cmd/usher/internal/rollout"
	"usher/cmd/usher/internal/settings"
	"usher/cmd/usher/internal/stores"
	"usher/cmd/usher/internal/validate"
	"usher/proxy/printable"
	"usher/store/published"
	"usher/store/redisstore"
)

// publishFlags are those of the verbs that publish rules.
type publishFlags struct {
	Message string        `help:"Why, for usher generations. At most 500 bytes."`
	Wait    time.Duration `default:"30s" help:"How long to wait until the rules are in force on all replicas. 0s does not wait."`
	DryRun  bool          `help:"Show what would change, and publish nothing."`
	JSON    bool          `name:"json" help:"Print the result as JSON."`
	Key     string        `placeholder:"FILE" help:"Sign the rules with the private key in this file, see usher keygen. Required if the replicas have USHER_CONFIG_KEY."`
}

type applyCmd struct {
	File string `arg:"" help:"The rule file; - reads the standard input."`
	publishFlags
}

const publishHelp = `The store is that of USHER_STORE and USHER_CLUSTER. Replicas with USHER_CONFIG=store take the rules at their next exchange with it, at most a tenth of USHER_LEASE_TTL later. Requests that come after that are judged by the new rules. Running sessions keep theirs.

A replica that cannot load the rules keeps the old ones. That is shown here, in its log and in its status. A replica that does not reach the store takes the rules when it reaches the store again.

The rules are checked as by usher validate --elsewhere: set USHER_USERS_FILE, USHER_GROUPS_FILE and USHER_LISTEN as on the replicas.

Exit codes: 0 the rules are in force on all replicas that reach the store (with --dry-run: they can be published), 1 they are not, 2 wrong arguments or a wrong variable.`

// Help is shown under usher apply --help.
func (applyCmd) Help() string {
	return "Checks a rule file, shows what it changes, publishes it for all replicas of the cluster, and waits until they follow.\n\n" + publishHelp
}

// Run publishes a rule file.
func (a applyCmd) Run(ctx context.Context, sys system) error {
	name, text, err := validateCmd{File: a.File}.read(sys)
	if err != nil {
		return fmt.Errorf("rule file: %w", err)
	}
	p, err := a.open(ctx, sys)
	if err != nil {
		return err
	}
	defer p.close()
	return p.publish(ctx, name, string(text))
}

type rollbackCmd struct {
	Number uint64 `arg:"" optional:"" help:"The generation to go back to, see usher generations. Default: the one before the newest."`
	publishFlags
}

// Help is shown under usher rollback --help.
func (rollbackCmd) Help() string {
	return "Publishes the rules of an older generation again, as the next generation.\n\n" + publishHelp
}

// Run publishes an older text.
func (r rollbackCmd) Run(ctx context.Context, sys system) error {
	p, err := r.open(ctx, sys)
	if err != nil {
		return err
	}
	defer p.close()
	number := r.Number
	if number == 0 {
		if len(p.kept) < 2 {
			return errors.New("there is no older generation to go back to")
		}
		number = p.kept[1].Number
	}
	old, err := p.conn.Text(ctx, number)
	if err != nil {
		return err
	}
	if old == nil {
		return fmt.Errorf("generation %d is not kept; usher generations lists those that are", number)
	}
	if p.flags.Message == "" {
		p.flags.Message = fmt.Sprintf("rollback to generation %d", number)
	}
	return p.publish(ctx, published.Name(number), old.Rules)
}

// publisher is a connection to the store, and what was there at first.
type publisher struct {
	flags  publishFlags
	sys    system
	cfg    settings.Config
	key    ed25519.PrivateKey // nil: do not sign
	store  *redisstore.Store
	conn   published.Conn
	kept   []published.Generation // the newest first
	newest *published.Text        // nil: nothing is published
	result publishResult
}

// publishResult is printed with --json.
type publishResult struct {
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
	Silent    []string           `json:"not_following"`
}

// storeTimeout bounds the questions of a verb to the store.
const storeTimeout = 10 * time.Second

func (f publishFlags) open(ctx context.Context, sys system) (p *publisher, err error) {
	p = &publisher{flags: f, sys: sys, result: publishResult{
		On: []published.Report{}, Refusing: []published.Report{}, Behind: []published.Report{}, Silent: []string{},
	}}
	if len(f.Message) > published.MaxMessage {
		return nil, exit.Usage(fmt.Errorf("the message has %d bytes; %d are allowed", len(f.Message), published.MaxMessage))
	}
	if f.Key != "" {
		text, err := os.ReadFile(f.Key)
		if err != nil {
			return nil, err
		}
		if p.key, err = published.ParsePrivateKey(text); err != nil {
			return nil, fmt.Errorf("%s: %w", f.Key, err)
		}
	}
	if p.cfg, p.store, err = publishedStore(sys); err != nil {
		return nil, err
	}
	if err := p.look(ctx); err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

// publishedStore opens the store in which rules are published.
func publishedStore(sys system) (settings.Config, *redisstore.Store, error) {
	cfg, err := sys.config()
	if err != nil {
		return cfg, nil, err
	}
	st, err := stores.Open(cfg)
	if err != nil {
		return cfg, nil, exit.Usage(err)
	}
	if st, ok := st.(*redisstore.Store); ok {
		return cfg, st, nil
	}
	return cfg, nil, exit.Usage(errors.New("rules are published in a Redis, which the replicas share; set USHER_STORE to its URL"))
}

func (p *publisher) close() {
	if p.conn != nil {
		p.conn.Close()
	}
	p.store.Close()
}

// look connects, and reads what is published.
func (p *publisher) look(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	if p.conn, err = p.store.Published(ctx); err != nil {
		p.conn = nil
		return fmt.Errorf("the store: %w", err)
	}
	if p.kept, err = p.conn.Generations(ctx); err != nil {
		return fmt.Errorf("the store: %w", err)
	}
	if len(p.kept) > 0 {
		p.newest, err = p.conn.Text(ctx, p.kept[0].Number)
	}
	return err
}

// publish checks a text, shows what changes, publishes it and waits.
func (p *publisher) publish(ctx context.Context, name, text string) error {
	known, _ := validateCmd{Elsewhere: true}.machine(p.cfg)
	report := validate.Text(ctx, name, []byte(text), p.cfg, known, nil)
	report.PrintFindings(p.sys.stderr)
	if !report.Good {
		return exit.CodeError(1)
	}
	if len(text) > published.MaxText {
		return fmt.Errorf("the text has %d bytes; %d are allowed", len(text), published.MaxText)
	}
	p.compare(name, text, known, report.Digest)
	if p.flags.DryRun {
		p.result.Done = true
		return p.print("nothing is published (--dry-run)")
	}
	number, err := p.put(ctx, text, report.Digest)
	if err != nil {
		return err
	}
	return p.follow(ctx, number)
}

// compare shows what changes.
func (p *publisher) compare(name, text string, known policyfile.Accounts, digest string) {
	normal := func(name, text string) string {
		if set, _ := policyfile.Parse(name, []byte(text), known); set != nil {
			return set.String()
		}
		return text
	}
	before := rollout.Side{Name: "nothing published"}
	if p.newest != nil {
		before = rollout.Side{Name: published.Name(p.newest.Number), Rules: normal("", p.newest.Rules)}
		p.result.Before = p.newest.Number
	}
	r := &p.result
	r.Digest, r.Diff = digest, rollout.Diff(before, rollout.Side{Name: name, Rules: normal(name, text)})
	r.Changes = r.Diff != ""
	if p.flags.JSON {
		return
	}
	switch {
	case r.Changes:
		fmt.Fprint(p.sys.stdout, printable.Lines(r.Diff))
		if p.newest != nil && p.newest.Digest != digest {
			fmt.Fprintln(p.sys.stderr, "note: the rules decide differently, so their limits start at 0; running sessions keep counting under the old rules")
		}
	case p.newest.Rules != text:
		fmt.Fprintln(p.sys.stdout, "only comments or the spelling change")
	default:
		fmt.Fprintln(p.sys.stdout, "nothing changes")
	}
}

// put publishes a text, unless it is the newest already, and returns its number.
func (p *publisher) put(ctx context.Context, text, digest string) (uint64, error) {
	if p.newest != nil && len(p.newest.Signature) > 0 && p.key == nil {
		return 0, fmt.Errorf("%s is signed, and replicas may demand a signature; give the private key with --key", published.Name(p.newest.Number))
	}
	if p.newest != nil && p.newest.Rules == text && p.signedAlike() {
		return p.newest.Number, nil
	}
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	all, err := p.conn.Replicas(ctx)
	if err != nil {
		return 0, err
	}
	number := p.result.Before
	for _, r := range all.Reports { // replicas take nothing older than theirs, whatever the store has lost
		number = max(number, r.Number, r.Refused)
	}
	t := published.New(number+1, string(p.cfg.Cluster), digest, p.flags.Message, text, time.Now())
	if p.key != nil {
		t = t.Sign(p.key)
	}
	if err := t.Check(t.Cluster); err != nil {
		return 0, err
	}
	latest, ok, err := p.conn.Publish(ctx, t, p.result.Before)
	switch {
	case err != nil:
		return 0, fmt.Errorf("publishing: %w; usher generations shows whether it succeeded", err)
	case !ok:
		return 0, fmt.Errorf("generation %d was published meanwhile, and these rules were not; look at it with usher generations, and try again", latest)
	}
	p.result.Published = true
	return t.Number, nil
}

// signedAlike reports whether the newest generation needs no other signature.
func (p *publisher) signedAlike() bool {
	if p.key == nil {
		return true
	}
	public, ok := p.key.Public().(ed25519.PublicKey)
	return ok && p.newest.Verify([]ed25519.PublicKey{public}) == nil
}

// follow waits until the generation is in force.
func (p *publisher) follow(ctx context.Context, number uint64) error {
	r, began := &p.result, time.Now()
	r.Number = number
	if p.flags.Wait <= 0 {
		return p.print(fmt.Sprintf("generation %d is published", number))
	}
	ctx, cancel := context.WithTimeout(ctx, p.flags.Wait)
	defer cancel()
	conn := p.conn
	p.conn = nil // Wait closes it
	standing, err := rollout.Wait(ctx, number, conn, p.store.Published, func(s rollout.Standing) {
		fmt.Fprintln(p.sys.stderr, printable.Text(s.String()))
	})
	r.Seconds = time.Since(began).Seconds()
	r.On, r.Refusing = append(r.On, standing.On...), append(r.Refusing, standing.Refusing...)
	r.Behind, r.Silent = append(r.Behind, standing.Behind...), append(r.Silent, standing.Silent...)
	r.Done = err == nil && standing.Number != 0 && standing.Done()
	p.explain(standing)
	if superseded := (rollout.SupersededError{}); errors.As(err, &superseded) {
		return errors.Join(p.print(""), fmt.Errorf("generation %d is published, but %w", number, err))
	}
	if err != nil {
		return errors.Join(p.print(""), fmt.Errorf("generation %d is published, but it is not known to be in force everywhere: %w", number, err))
	}
	if !r.Done {
		return errors.Join(p.print(""), exit.CodeError(1))
	}
	if len(standing.On) == 0 {
		return p.print(fmt.Sprintf("generation %d is published; no replica follows the store yet", number))
	}
	return p.print(fmt.Sprintf("generation %d is in force on %d replicas", number, len(standing.On)))
}

// explain says which replicas are not on the generation, and why.
func (p *publisher) explain(s rollout.Standing) {
	w := p.sys.stderr
	for _, r := range s.Refusing {
		fmt.Fprintf(w, "%s keeps generation %d: %s\n", printable.Text(r.Name), r.Number, printable.Lines(r.Reason))
	}
	for _, r := range s.Behind {
		fmt.Fprintf(w, "%s is still on generation %d after %v; it takes generation %d when it reaches the store\n", printable.Text(r.Name), r.Number, p.flags.Wait, s.Number)
	}
	if len(s.Silent) > 0 {
		fmt.Fprintf(w, "warning: members of the cluster do not follow the store, as they have rule files of their own: %s\n", printable.Text(strings.Join(s.Silent, ", ")))
	}
}

// print prints the result: a line, or with --json all of it.
func (p *publisher) print(line string) error {
	var err error
	switch {
	case p.flags.JSON:
		err = printJSON(p.sys.stdout, p.result)
	case line != "":
		_, err = io.WriteString(p.sys.stdout, line+"\n")
	}
	return err
}
