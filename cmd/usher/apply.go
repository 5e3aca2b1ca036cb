package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"usher/cmd/usher/internal/exit"
	"usher/cmd/usher/internal/publish"
	"usher/cmd/usher/internal/settings"
	"usher/cmd/usher/internal/stores"
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

A replica that cannot load the rules keeps the old ones. That is shown here, in its log and in its status. A replica that does not reach the store takes the rules when it reaches the store again, and before it admits anybody by a rule with a limit. If that happens to a replica while this command waits, it names the replica and fails: the replica may be dead, or serve rules without a limit by the old text. A replica that was stopped in good order is no failure.

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
	return a.publish(ctx, sys, func(p *publish.Publisher) (*publish.Result, error) { return p.Publish(ctx, name, string(text)) })
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
	return r.publish(ctx, sys, func(p *publish.Publisher) (*publish.Result, error) { return p.Rollback(ctx, r.Number) })
}

// publish opens a Publisher for what a verb does with it.
func (f publishFlags) publish(ctx context.Context, sys system, do func(*publish.Publisher) (*publish.Result, error)) error {
	if len(f.Message) > published.MaxMessage {
		return exit.Usage(fmt.Errorf("the message has %d bytes; %d are allowed", len(f.Message), published.MaxMessage))
	}
	if f.Wait < 0 {
		return exit.Usage(errors.New("--wait must not be negative; 0s does not wait"))
	}
	key, err := publish.ReadKey(f.Key)
	if err != nil {
		return err
	}
	cfg, st, err := publishedStore(sys)
	if err != nil {
		return err
	}
	defer st.Close()
	known, _ := validateCmd{Elsewhere: true}.machine(cfg)
	o := publish.Options{
		Config: cfg, Accounts: known, Dial: st.Published,
		Key: key, Message: f.Message, Wait: f.Wait, DryRun: f.DryRun, Out: sys.stdout, Progress: sys.stderr,
	}
	if f.JSON {
		o.Out = io.Discard
	}
	p, err := publish.Open(ctx, o)
	if err != nil {
		return err
	}
	defer p.Close()
	result, err := do(p)
	if f.JSON && result != nil {
		return errors.Join(printable.WriteJSON(sys.stdout, result), err)
	}
	return err
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
