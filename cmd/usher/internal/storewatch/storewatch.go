// Package storewatch logs the state of the store, as this replica sees it: failures,
// lost leases, recovery, and replicas with other settings or other rules.
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
	"usher/store/redisstore"
)

// Watch logs failures of the store and changes of this replica's state in it.
// The limiter itself does not log. A Watch is safe for concurrent use.
type Watch struct {
	log     *slog.Logger
	ttl     time.Duration
	effects effects

	mu     sync.Mutex
	outage outage
	left   bool
}

// New returns a Watch that writes to log. What a failure means for sessions
// depends on cfg.
func New(log *slog.Logger, cfg settings.Config) *Watch {
	return &Watch{log: log, ttl: cfg.LeaseTTL, effects: effectsOf(cfg)}
}

// effects say what happens to sessions in each situation, under the settings.
type effects struct{ failing, lost, lease string }

func effectsOf(cfg settings.Config) effects {
	const unlimited = "rules without a limit are not affected"
	const lease = "sessions continue; limits may be exceeded until they end"
	switch {
	case cfg.LeaseLoss == "close":
		return effects{
			failing: unlimited + "; limited sessions end after 0.7 USHER_LEASE_TTL without the store",
			lost:    "new limited sessions wait for USHER_STORE_WAIT, then are refused; running ones end with their lease",
			lease:   "limited sessions that relied on it have ended",
		}
	case cfg.StoreDown == "admit":
		return effects{
			failing: unlimited,
			lost:    "new limited sessions wait for USHER_STORE_WAIT, then are admitted by this replica's own count",
			lease:   lease,
		}
	}
	return effects{
		failing: unlimited,
		lost:    "new limited sessions wait for USHER_STORE_WAIT, then are refused",
		lease:   lease,
	}
}

// quietPeriod is how long no request may fail before an outage is over. A store
// that accepts connections may still refuse every request, and one of several
// servers may be down.
const quietPeriod = 5 * time.Second

// Observe records one request to the store. Its signature is that of
// limiter.Options.Observe. It logs new failures, and the end of an outage. Only a
// join or a batch that succeeds ends an outage, because these write.
func (w *Watch) Observe(op string, took time.Duration, err error) {
	if errors.Is(err, context.Canceled) {
		return // the process is stopping
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	switch {
	case err != nil:
		if w.outage.failed(now, op, w.describe(op, took, err)) {
			w.logFailure()
		}
	case w.outage.lasts() && (op == "join" || op == "batch") && now.Sub(w.outage.last) >= quietPeriod:
		w.outage = outage{}
		w.log.Info("the store answers again", "no_failure_for", quietPeriod.String())
	}
}

// describe returns the text of a failure. For a request that timed out it adds
// the time limit and the setting behind it, which the error does not name.
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

// logFailure logs the last failure. w.mu is held.
func (w *Watch) logFailure() {
	attrs := []any{"op", w.outage.op, "error", w.outage.err}
	if lasted := w.outage.lasted(); lasted != "" {
		attrs = append(attrs, "for", lasted)
	}
	w.log.Warn("the store fails", append(attrs, "effect", w.effects.failing)...)
}

// Trouble returns the last failure of the current outage and when the outage
// began; "" if there is none.
func (w *Watch) Trouble() (failure string, since time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.outage.lasts() {
		return "", time.Time{}
	}
	return w.outage.op + ": " + w.outage.err, w.outage.since
}

// Run logs changes of the limiter's status until ctx is done.
func (w *Watch) Run(ctx context.Context, status func() limiter.Status) {
	n := news{effects: w.effects}
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			st := status()
			if w.hasLeft() { // asked after the status, which may be that of having left
				continue
			}
			failure, _ := w.Trouble()
			for _, l := range n.next(st, failure, now) {
				w.log.Log(ctx, l.level, l.text, l.attrs...)
			}
		}
	}
}

// Leave says that this replica is about to leave the store. It is no news then that it
// is no member. Failures of the store still are.
func (w *Watch) Leave() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.left = true
}

func (w *Watch) hasLeft() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.left
}

// splitPatience is how long replicas may have different rules: less is a rolling
// change, more is probably a mistake.
const splitPatience = 5 * time.Minute

// news compares successive statuses and returns what is worth a log line.
type news struct {
	effects   effects
	last      limiter.Status
	split     time.Time // when replicas began to have different rules; zero: they have the same
	splitTold bool
}

type newsLine struct {
	level slog.Level
	text  string
	attrs []any
}

// next takes the status at now and the last failure, "" if there is none.
func (n *news) next(st limiter.Status, failure string, now time.Time) (lines []newsLine) {
	say := func(level slog.Level, text string, attrs ...any) {
		lines = append(lines, newsLine{level, text, attrs})
	}
	if lapsed := st.LeasesLost - n.last.LeasesLost; lapsed > 0 {
		say(slog.LevelWarn, "lease lost", "leases", lapsed, "effect", n.effects.lease)
	}
	switch {
	case st.Mismatch != "" && st.Mismatch != n.last.Mismatch:
		say(slog.LevelError, "other replicas have conflicting lease settings", "theirs", st.Mismatch,
			"effect", "limited rules admit nobody on this replica",
			"remedy", "set the same USHER_LEASE_TTL, USHER_LEASE_LOSS and shards in USHER_STORE on all replicas")
	case st.Joined && st.Recovering && (!n.last.Joined || !n.last.Recovering):
		say(slog.LevelInfo, "joined a recovering store", "replicas", len(st.Replicas),
			"effect", "the store confirms no new sessions until it is ready")
	case st.Joined && !st.Recovering && (!n.last.Joined || n.last.Recovering):
		say(slog.LevelInfo, "joined the store", "replicas", len(st.Replicas), "generation", st.Generation)
	case !st.Joined && n.last.Joined:
		attrs := []any{"effect", n.effects.lost}
		if failure != "" {
			attrs = append(attrs, "error", failure)
		}
		say(slog.LevelWarn, "lost the store", attrs...)
	}
	n.last = st
	return append(lines, n.differences(st, now)...)
}

// differences warns, once, when replicas have had different rules for longer than
// splitPatience.
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
		attrs := []any{"for", splitPatience.String(), "remedy", "give all replicas the same rule file; each set of rules is counted separately"}
		for _, digest := range slices.Sorted(maps.Keys(by)) {
			slices.Sort(by[digest])
			attrs = append(attrs, digest, by[digest])
		}
		return []newsLine{{slog.LevelWarn, "replicas have different rules", attrs}}
	}
	return nil
}

// RedisLog logs messages of the Redis client at level debug. Failures that matter
// are also returned as errors.
type RedisLog struct{ Logger *slog.Logger }

// Printf implements the client's logging interface.
func (r RedisLog) Printf(ctx context.Context, format string, v ...any) {
	r.Logger.DebugContext(ctx, "redis client", "message", redisstore.OneLine(fmt.Sprintf(format, v...)))
}

// checkPause is the first pause between two attempts to read the settings of
// the store's servers, which grows to checkPauseMax, and the time limit of each.
const (
	checkPause    = 5 * time.Second
	checkPauseMax = 5 * time.Minute
)

// Check reads the settings of the store's servers until all could be read, and
// logs a warning for each finding, once.
func (w *Watch) Check(ctx context.Context, check func(context.Context) ([]string, error)) {
	told := map[string]bool{}
	for pause := checkPause; ctx.Err() == nil; pause = min(2*pause, checkPauseMax) {
		bounded, cancel := context.WithTimeout(ctx, checkPause)
		findings, err := check(bounded)
		cancel()
		for _, f := range findings {
			if !told[f] {
				told[f] = true
				w.log.Warn("a store server is misconfigured", "finding", f)
			}
		}
		if err == nil {
			return
		}
		w.log.Debug("cannot read the settings of the store servers yet", "error", err.Error())
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}
