package logging

import (
	"context"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"usher/proxy/fair"
)

const (
	burstSeconds = 10               // a burst may use the budget of so many seconds
	maxBudgets   = 4096             // sources with a budget of their own, for each kind of line
	summaryPause = 10 * time.Second // from the first suppressed line to its summary
)

// budget is a handler that bounds the lines about sessions for each source, and sums
// up the lines that it suppresses. Other lines pass.
type budget struct {
	next  slog.Handler
	kinds map[string]*kind // by message; shared by handlers with other attributes
}

// kind is one kind of line.
type kind struct {
	summary   string // message of the line that sums up
	perSecond int    // 0: no bound
	refused   bool   // its lines have a budget for each reason

	mu         sync.Mutex
	accounts   map[account]*balance
	swept      time.Time
	suppressed uint64
}

// account identifies a budget. The zero source stands for all sources that came when
// there were maxBudgets accounts.
type account struct {
	reason string // of refusals
	source netip.Prefix
}

// balance is the state of one account.
type balance struct {
	lines      float64 // that may be written at the time at
	at         time.Time
	suppressed traffic     // what the log has not mentioned
	summary    *time.Timer // nil: nothing is suppressed
}

// traffic is the sum of several lines.
type traffic struct {
	lines, up, down uint64 // bytes_up and bytes_down
}

// newBudget bounds the lines about refused sessions, and those about sessions that
// were passed.
func newBudget(next slog.Handler, refused, passed int) *budget {
	b := &budget{next, map[string]*kind{
		"session refused":   {summary: "refused sessions not logged", perSecond: refused, refused: true},
		"session ended":     {summary: "ended sessions not logged", perSecond: passed},
		"session connected": {summary: "connected sessions not logged", perSecond: passed},
	}}
	for _, k := range b.kinds {
		k.accounts = map[account]*balance{}
	}
	return b
}

// Enabled implements slog.Handler.
func (b *budget) Enabled(ctx context.Context, level slog.Level) bool {
	return b.next.Enabled(ctx, level)
}

// WithAttrs implements slog.Handler.
func (b *budget) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &budget{b.next.WithAttrs(attrs), b.kinds}
}

// WithGroup implements slog.Handler.
func (b *budget) WithGroup(name string) slog.Handler { return &budget{b.next.WithGroup(name), b.kinds} }

// Handle implements slog.Handler.
func (b *budget) Handle(ctx context.Context, r slog.Record) error {
	if k := b.kinds[r.Message]; k != nil && k.perSecond > 0 {
		if a, told := k.read(r); !b.spend(k, a, told, r.Time) {
			return nil
		}
	}
	return b.next.Handle(ctx, r)
}

// read returns the account of a line, and its traffic.
func (k *kind) read(r slog.Record) (a account, told traffic) {
	told.lines = 1
	r.Attrs(func(attr slog.Attr) bool {
		switch attr.Key {
		case "reason":
			if k.refused {
				a.reason = attr.Value.String()
			}
		case "client":
			if client, err := netip.ParseAddrPort(attr.Value.String()); err == nil {
				a.source = fair.SourceOf(client.Addr())
			}
		case "bytes_up":
			told.up = uint64(attr.Value.Int64())
		case "bytes_down":
			told.down = uint64(attr.Value.Int64())
		}
		return true
	})
	return a, told
}

// spend takes one line from the budget of a. If there is none left, it reports false
// and schedules a summary.
func (b *budget) spend(k *kind, a account, told traffic, now time.Time) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	a, have := k.open(a, now)
	if have == nil {
		return true
	}
	if have.lines < 1 {
		k.suppressed++
		have.suppressed.lines++
		have.suppressed.up += told.up
		have.suppressed.down += told.down
		if have.summary == nil {
			have.summary = time.AfterFunc(summaryPause, func() { b.summarize(k, a, have) })
		}
		return false
	}
	have.lines--
	return true
}

// open returns the account to charge for a, with its balance at now. If there are too
// many accounts, the refused sessions of further sources share one. Their passed
// sessions have none, so that an ordinary client loses no line because there are many
// clients. k.mu is held.
func (k *kind) open(a account, now time.Time) (account, *balance) {
	have := k.accounts[a]
	if have == nil && len(k.accounts) >= maxBudgets {
		k.sweep(now)
		if len(k.accounts) >= maxBudgets {
			if !k.refused {
				return a, nil
			}
			a.source = netip.Prefix{}
			have = k.accounts[a]
		}
	}
	if have == nil {
		have = &balance{lines: k.burst(), at: now}
		k.accounts[a] = have
	}
	have.lines, have.at = k.left(have, now), now
	return a, have
}

func (k *kind) burst() float64 { return float64(k.perSecond) * burstSeconds }

// left is the budget of an account at now.
func (k *kind) left(have *balance, now time.Time) float64 {
	return min(k.burst(), have.lines+now.Sub(have.at).Seconds()*float64(k.perSecond))
}

// sweep closes accounts that have their full budget again, at most once a second.
// k.mu is held.
func (k *kind) sweep(now time.Time) {
	if now.Sub(k.swept) < time.Second {
		return
	}
	k.swept = now
	for a, have := range k.accounts {
		if have.summary == nil && k.left(have, now) >= k.burst() {
			delete(k.accounts, a)
		}
	}
}

// summarize logs how many lines of an account were suppressed, and their traffic.
func (b *budget) summarize(k *kind, a account, have *balance) {
	k.mu.Lock()
	sum := have.suppressed
	have.suppressed, have.summary = traffic{}, nil
	k.mu.Unlock()
	if sum.lines == 0 {
		return
	}
	source := "others"
	if a.source.IsValid() {
		source = a.source.String()
		if a.source.IsSingleIP() {
			source = a.source.Addr().String()
		}
	}
	r := slog.NewRecord(time.Now(), slog.LevelInfo, k.summary, 0)
	if k.refused {
		r.AddAttrs(slog.String("reason", a.reason))
	}
	r.AddAttrs(slog.String("source", source), slog.Uint64("lines", sum.lines))
	if !k.refused {
		r.AddAttrs(slog.Uint64("bytes_up", sum.up), slog.Uint64("bytes_down", sum.down))
	}
	_ = b.next.Handle(context.Background(), r) // a queue does not fail
}

// close logs the summaries that are due.
func (b *budget) close() {
	for _, k := range b.kinds {
		k.mu.Lock()
		due := map[account]*balance{}
		for a, have := range k.accounts {
			if have.summary != nil && have.summary.Stop() {
				due[a] = have
			}
		}
		k.mu.Unlock()
		for a, have := range due {
			b.summarize(k, a, have)
		}
	}
}

// dropped returns how many lines were suppressed.
func (b *budget) dropped() (n uint64) {
	for _, k := range b.kinds {
		k.mu.Lock()
		n += k.suppressed
		k.mu.Unlock()
	}
	return n
}
