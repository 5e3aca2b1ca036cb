package integration

import (
	"flag"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"usher/deploy/need"
)

var differentialRecord = flag.Bool("differential.record", false, "write what danted answers into the cases")

// TestDifferential asks danted and Usher the questions of the written cases, and
// compares each answer with the expected one.
func TestDifferential(t *testing.T) {
	book := readCases(t)
	var trials []*ruleCase
	for _, f := range book.files {
		trials = append(trials, f.trials...)
	}
	if *differentialRecord {
		book.record(t, contest(t, trials))
		return
	}
	answers := settle(t, trials, func(tr *ruleCase, step int, got answers) bool {
		s := tr.steps[step]
		return got.danted[step] == s.danted && got.usher[step] == s.usher
	})
	steps, differ := 0, 0
	for i, tr := range trials {
		steps += len(tr.steps)
		t.Run(tr.name(), func(t *testing.T) {
			for j, s := range tr.steps {
				got := answers[i]
				if got.danted[j] != s.danted {
					t.Errorf("%s:%d: %s: danted: %s, written: %s", tr.file, s.line, s.text, got.danted[j], s.danted)
				}
				if s.differs() {
					differ++
				}
				if got.usher[j] != s.usher {
					t.Errorf("%s:%d: %s: usher: %s, want: %s", tr.file, s.line, s.text, got.usher[j], s.usher)
				}
			}
			if t.Failed() {
				t.Logf("rules:\n%s", tr.config())
			}
		})
	}
	t.Logf("%d cases, %d questions; %d answers differ for a reason", len(trials), steps, differ)
}

// TestDifferentialReasons checks that each difference has a reason, that each
// reason is still needed, and that the documentation gives it.
func TestDifferentialReasons(t *testing.T) {
	used := map[string]string{} // and where
	for _, f := range readCases(t).files {
		for _, tr := range f.trials {
			for _, s := range tr.steps {
				used[s.reason] = fmt.Sprintf("%s:%d", tr.file, s.line)
			}
		}
	}
	for _, c := range readFileCases(t) {
		used[c.reason] = fmt.Sprintf("%s:%d", filesTable, c.line)
	}
	delete(used, "")
	reasons := readReasons(t)
	for name, where := range used {
		if reasons[name] == "" {
			t.Errorf("%s: no reason is called %q", where, name)
		}
	}
	docs := readFile(t, "../docs/migrating-from-dante.md")
	for name, words := range reasons {
		if used[name] == "" {
			t.Errorf("nothing differs because of %q", name)
		}
		if !strings.Contains(docs, words) {
			t.Errorf("%s: docs/migrating-from-dante.md does not say %q", name, words)
		}
	}
}

// answers are the answers of both proxies to the steps of a trial.
type answers struct{ danted, usher []string }

// noServer is the answer to every question if the file is refused.
const noServer = "file refused"

// workers is how many of each proxy run at a time. They wait most of the time.
const workers = 3

// settle runs the trials with both proxies. It runs a trial again if only answers that
// depend on time were unexpected: a datagram that is lost or late on a busy machine
// looks like a dropped one. Real differences stay. Verdicts do not depend on time, so
// they are asked once.
func settle(t *testing.T, trials []*ruleCase, expected func(tr *ruleCase, step int, got answers) bool) []answers {
	t.Helper()
	all := contest(t, trials)
	var which []int
	var again []*ruleCase
	for i, tr := range trials {
		if tr.onlyLate(func(step int) bool { return expected(tr, step, all[i]) }) {
			which, again = append(which, i), append(again, tr)
			t.Logf("asked again: %s", tr.name())
		}
	}
	if len(again) > 0 {
		for i, got := range contest(t, again) {
			all[which[i]] = got
		}
	}
	return all
}

// onlyLate reports whether some answers are not as expected, and all of these depend on
// time.
func (tr *ruleCase) onlyLate(expected func(step int) bool) bool {
	late := false
	for i, s := range tr.steps {
		switch {
		case expected(i):
		case s.question.soon || s.question.verb == "datagram":
			late = true
		default:
			return false
		}
	}
	return late
}

// contest runs the trials with both proxies, and returns the answers in the
// order of the trials.
func contest(t *testing.T, trials []*ruleCase) []answers {
	t.Helper()
	need.Program(t, "danted")
	all := make([]answers, len(trials))
	next := map[string]chan int{}
	for _, kind := range []string{"danted", "usher"} {
		next[kind] = make(chan int, len(trials))
		for i := range trials {
			next[kind] <- i
		}
		close(next[kind])
	}
	var mu sync.Mutex
	t.Run("ask", func(t *testing.T) {
		together(2*workers, func(worker int) { // t.Parallel would be bound by the cores
			kind := []string{"danted", "usher"}[worker%2]
			t.Run(fmt.Sprintf("%s %d", kind, worker/2+1), func(t *testing.T) {
				l := newLaboratory(t)
				for i := range next[kind] {
					got := l.try(kind, trials[i])
					mu.Lock()
					if kind == "danted" {
						all[i].danted = got
					} else {
						all[i].usher = got
					}
					mu.Unlock()
				}
			})
		})
	})
	if t.Failed() {
		t.FailNow()
	}
	if len(all) > 0 && all[0].danted == nil {
		t.SkipNow() // the subtests have said why
	}
	return all
}

// try starts a proxy on the trial's rules and asks the questions.
func (l *laboratory) try(kind string, tr *ruleCase) []string {
	l.t.Helper()
	config := filepath.Join(l.dir, "sockd.conf")
	writeFile(l.t, config, tr.config())
	start := l.startDanted
	if kind == "usher" {
		start = l.startUsher
	}
	got := make([]string, len(tr.steps))
	c := start(config)
	if c == nil {
		for i := range got {
			got[i] = noServer
		}
		return got
	}
	defer c.stop(l.t)
	d := interview{lab: l, proxy: c, open: map[string]*party{}}
	defer d.end()
	for i := 0; i < len(tr.steps); i++ {
		if n := burst(tr.steps[i:]); n > 0 {
			copy(got[i:], d.datagrams(tr.steps[i:i+n]))
			i += n - 1
			continue
		}
		s := tr.steps[i]
		want := s.danted
		if kind == "usher" {
			want = s.usher
		}
		got[i] = d.ask(s.question, want)
	}
	return got
}
