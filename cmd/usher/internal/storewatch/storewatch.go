// Package storewatch logs how this replica stands with its store.
package storewatch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	"usher/cmd/usher/internal/settings"
	"usher/limiter"
)

// Watch tells the log how this replica stands with its store. The limiter
// itself does not log.
type Watch struct {
	log   *slog.Logger
	ttl   time.Duration
	texts lossTexts

	mu     sync.Mutex
	outage outage
}

// New returns a watch that writes to log, in the words that cfg calls for.
func New(log *slog.Logger, cfg settings.Config) *Watch {
	return &Watch{log: log, ttl: cfg.LeaseTTL, texts: textsOf(cfg)}
}

// lossTexts say what it means for sessions that the store fails or is lost,
// which the settings decide.
type lossTexts struct{ fails, lost, lease string }

func textsOf(cfg settings.Config) lossTexts {
	const goOn = "the lease was lost: limited sessions here go on while others may be given their slots; " +
		"what is then above a limit is not refilled"
	switch {
	case cfg.LeaseLoss == "close":
		return lossTexts{
			fails: "the store fails; rules without a limit go on, limited sessions end if it lasts for 0.7 USHER_LEASE_TTL",
			lost:  "lost the store: new limited sessions wait and are then refused, those that run end with their lease",
			lease: "the lease was lost: limited sessions that relied on it have ended",
		}
	case cfg.StoreDown == "admit":
		return lossTexts{
			fails: "the store fails; rules without a limit go on",
			lost:  "lost the store: new limited sessions wait and are then admitted by this replica's own count",
			lease: goOn,
		}
	}
	return lossTexts{
		fails: "the store fails; rules without a limit go on",
		lost:  "lost the store: new limited sessions wait and are then refused",
		lease: goOn,
	}
}

// calm is how long nothing must have failed before the store is said to answer
// again. A store that can be reached may refuse what it is then sent, again and
// again, and one of several servers may be away.
const calm = 5 * time.Second

// Observe logs that the store fails, as far as that is news, and that it serves
// again: by a join or a batch, which write.
func (w *Watch) Observe(op string, took time.Duration, err error) {
	if errors.Is(err, context.Canceled) {
		return // we are stopping
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	switch {
	case err != nil:
		if w.outage.failed(now, op, w.describe(op, took, err)) {
			w.tellFailure()
		}
	case w.outage.lasts() && (op == "join" || op == "batch") && now.Sub(w.outage.last) >= calm:
		w.outage = outage{}
		w.log.Info("the store answers again", "no_failure_for", calm.String())
	}
}

// describe returns the text of a failure. Of a request that has used up its time
// the error itself says neither how long that was nor what sets it.
func (w *Watch) describe(op string, took time.Duration, err error) string {
	limit, share := w.ttl/10, "a tenth"
	if op == "dial" {
		limit, share = w.ttl/5, "a fifth"
	}
	late := errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded)
	if !late || took < limit { // parts of a dial have limits of their own
		return err.Error()
	}
	return fmt.Sprintf("no answer within %v, %s of USHER_LEASE_TTL: %v", limit, share, err)
}

// tellFailure logs the last failure. w.mu is held.
func (w *Watch) tellFailure() {
	attrs := []any{"op", w.outage.op, "error", w.outage.err}
	if lasted := w.outage.lasted(); lasted != "" {
		attrs = append(attrs, "for", lasted)
	}
	w.log.Warn(w.texts.fails, attrs...)
}

// Trouble returns the last failure of an outage, and since when it lasts; ""
// if there is none.
func (w *Watch) Trouble() (failure string, since time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.outage.lasts() {
		return "", time.Time{}
	}
	return w.outage.op + ": " + w.outage.err, w.outage.since
}

// Run logs what changes in the limiter's status until ctx is done.
func (w *Watch) Run(ctx context.Context, status func() limiter.Status) {
	n := news{texts: w.texts}
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			failure, _ := w.Trouble()
			for _, l := range n.next(status(), failure, now) {
				w.log.Log(ctx, l.level, l.text, l.attrs...)
			}
		}
	}
}

// splitPatience is how long replicas may differ in their rules before that is
// no longer a rolling change but a mistake.
const splitPatience = 5 * time.Minute

// news finds what is worth a line in successive statuses.
type news struct {
	texts     lossTexts
	last      limiter.Status
	split     time.Time // since when replicas differ in their rules; zero: they do not
	splitTold bool
}

type newsLine struct {
	level slog.Level
	text  string
	attrs []any
}

// next takes the status at now, and what failed last, "" if nothing does.
func (n *news) next(st limiter.Status, failure string, now time.Time) (lines []newsLine) {
	say := func(level slog.Level, text string, attrs ...any) {
		lines = append(lines, newsLine{level, text, attrs})
	}
	if lapsed := st.LeasesLost - n.last.LeasesLost; lapsed > 0 {
		say(slog.LevelWarn, n.texts.lease, "leases", lapsed)
	}
	switch {
	case st.Mismatch != "" && st.Mismatch != n.last.Mismatch:
		say(slog.LevelError, "living replicas run with other lease settings: limited rules admit nobody here; "+
			"set the same USHER_LEASE_TTL, USHER_LEASE_LOSS and shards in USHER_STORE everywhere", "theirs", st.Mismatch)
	case st.Joined && st.Recovering && (!n.last.Joined || !n.last.Recovering):
		say(slog.LevelInfo, "joined a new or reset store: recovering, no new limited sessions yet",
			"replicas", len(st.Replicas))
	case st.Joined && !st.Recovering && (!n.last.Joined || n.last.Recovering):
		say(slog.LevelInfo, "joined the store: limited rules admit", "replicas", len(st.Replicas), "generation", st.Generation)
	case !st.Joined && n.last.Joined:
		var attrs []any
		if failure != "" {
			attrs = []any{"error", failure}
		}
		say(slog.LevelWarn, n.texts.lost, attrs...)
	}
	n.last = st
	return append(lines, n.differences(st, now)...)
}

// differences warns, once, of replicas that have had different rules for long.
func (n *news) differences(st limiter.Status, now time.Time) []newsLine {
	by := map[string][]string{}
	for replica, digest := range st.Replicas {
		by[digest] = append(by[digest], replica[:min(8, len(replica))])
	}
	switch {
	case len(by) < 2:
		n.split, n.splitTold = time.Time{}, false
	case n.split.IsZero():
		n.split = now
	case !n.splitTold && now.Sub(n.split) >= splitPatience:
		n.splitTold = true
		var attrs []any
		for _, digest := range slices.Sorted(maps.Keys(by)) {
			slices.Sort(by[digest])
			attrs = append(attrs, digest, by[digest])
		}
		return []newsLine{{slog.LevelWarn, "replicas have had different rules for " + splitPatience.String() +
			": each set of rules is counted on its own; give all of them the same file", attrs}}
	}
	return nil
}

// redisLog sends what the Redis client says to the log, at level debug: what
// matters of it comes back as an error.
// RedisLog hands what the Redis client says to log, at level debug.
type RedisLog struct{ Logger *slog.Logger }

// Printf implements the client's logging interface.
func (r RedisLog) Printf(ctx context.Context, format string, v ...any) {
	r.Logger.DebugContext(ctx, "redis client", "says", fmt.Sprintf(format, v...))
}

// checkPause is between two attempts to look at the settings of the store's
// servers, and bounds each.
const checkPause = 5 * time.Second

// Check looks, once the store can be reached, at the settings of its servers
// and logs what is to be said of them.
func (w *Watch) Check(ctx context.Context, check func(context.Context) ([]string, error)) {
	for ctx.Err() == nil {
		bounded, cancel := context.WithTimeout(ctx, checkPause)
		findings, err := check(bounded)
		cancel()
		if err == nil {
			for _, f := range findings {
				w.log.Warn("the store's server is not set up as it should be", "finding", f)
			}
			return
		}
		w.log.Debug("the settings of the store's servers cannot be read yet", "error", err.Error())
		select {
		case <-ctx.Done():
		case <-time.After(checkPause):
		}
	}
}
