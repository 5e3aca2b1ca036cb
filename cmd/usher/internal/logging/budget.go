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
	burstSeconds   = 10               // a burst may use the budget of so many seconds
	maxBudgets     = 4096             // sources with a budget of their own
	summaryPause   = 10 * time.Second // from the first suppressed line to its summary
	refusedMessage = "session refused"
)

// budget is a handler that bounds the lines about refused sessions for each
// reason and source, and sums up the lines that it suppresses. Other lines pass.
type budget struct {
	next  slog.Handler
	state *budgetState // shared by handlers with other attributes
}

type budgetState struct {
	perSecond int // 0: no bound

	mu         sync.Mutex
	accounts   map[account]*balance
	swept      time.Time
	suppressed uint64
}

// account is what has a budget. The zero source stands for all sources that came
// when there were maxBudgets accounts.
type account struct {
	reason string
	source netip.Prefix
}

// balance is the state of one account.
type balance struct {
	lines      float64 // that may be written at the time at
	at         time.Time
	suppressed uint64      // lines that the log has not mentioned
	summary    *time.Timer // nil: nothing is suppressed
}

func newBudget(next slog.Handler, perSecond int) *budget {
	return &budget{next, &budgetState{perSecond: perSecond, accounts: map[account]*balance{}}}
}

// Enabled implements slog.Handler.
func (b *budget) Enabled(ctx context.Context, level slog.Level) bool {
	return b.next.Enabled(ctx, level)
}

// WithAttrs implements slog.Handler.
func (b *budget) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &budget{b.next.WithAttrs(attrs), b.state}
}

// WithGroup implements slog.Handler.
func (b *budget) WithGroup(name string) slog.Handler { return &budget{b.next.WithGroup(name), b.state} }

// Handle implements slog.Handler.
func (b *budget) Handle(ctx context.Context, r slog.Record) error {
	if r.Message == refusedMessage && b.state.perSecond > 0 && !b.spend(accountOf(r), r.Time) {
		return nil
	}
	return b.next.Handle(ctx, r)
}

func accountOf(r slog.Record) (a account) {
	r.Attrs(func(attr slog.Attr) bool {
		switch attr.Key {
		case "reason":
			a.reason = attr.Value.String()
		case "client":
			if client, err := netip.ParseAddrPort(attr.Value.String()); err == nil {
				a.source = fair.SourceOf(client.Addr())
			}
		}
		return true
	})
	return a
}

// spend takes one line from the budget of a. If there is none left, it reports
// false and sees to a summary.
func (b *budget) spend(a account, now time.Time) bool {
	s := b.state
	s.mu.Lock()
	defer s.mu.Unlock()
	a, have := s.open(a, now)
	if have.lines < 1 {
		s.suppressed++
		have.suppressed++
		if have.summary == nil {
			have.summary = time.AfterFunc(summaryPause, func() { b.summarize(a, have) })
		}
		return false
	}
	have.lines--
	return true
}

// open returns the account to charge for a, with its balance at now. s.mu is held.
func (s *budgetState) open(a account, now time.Time) (account, *balance) {
	burst := float64(s.perSecond) * burstSeconds
	have := s.accounts[a]
	if have == nil && len(s.accounts) >= maxBudgets {
		s.sweep(now)
		if len(s.accounts) >= maxBudgets {
			a.source = netip.Prefix{}
			have = s.accounts[a]
		}
	}
	if have == nil {
		have = &balance{lines: burst, at: now}
		s.accounts[a] = have
	}
	have.lines = min(burst, have.lines+now.Sub(have.at).Seconds()*float64(s.perSecond))
	have.at = now
	return a, have
}

// sweep closes accounts that have their full budget again, at most once a second.
// s.mu is held.
func (s *budgetState) sweep(now time.Time) {
	if now.Sub(s.swept) < time.Second {
		return
	}
	s.swept = now
	for a, have := range s.accounts {
		if have.summary == nil && now.Sub(have.at) >= burstSeconds*time.Second {
			delete(s.accounts, a)
		}
	}
}

// summarize logs how many lines of an account were suppressed.
func (b *budget) summarize(a account, have *balance) {
	b.state.mu.Lock()
	lines := have.suppressed
	have.suppressed, have.summary = 0, nil
	b.state.mu.Unlock()
	if lines == 0 {
		return
	}
	source := "others"
	if a.source.IsValid() {
		source = a.source.String()
		if a.source.IsSingleIP() {
			source = a.source.Addr().String()
		}
	}
	r := slog.NewRecord(time.Now(), slog.LevelInfo, "refused sessions not logged", 0)
	r.AddAttrs(slog.String("reason", a.reason), slog.String("source", source), slog.Uint64("lines", lines))
	_ = b.next.Handle(context.Background(), r) // a queue does not fail
}

// close logs the summaries that are due.
func (b *budget) close() {
	b.state.mu.Lock()
	due := map[account]*balance{}
	for a, have := range b.state.accounts {
		if have.summary != nil && have.summary.Stop() {
			due[a] = have
		}
	}
	b.state.mu.Unlock()
	for a, have := range due {
		b.summarize(a, have)
	}
}

// dropped returns how many lines were suppressed.
func (b *budget) dropped() uint64 {
	b.state.mu.Lock()
	defer b.state.mu.Unlock()
	return b.state.suppressed
}
