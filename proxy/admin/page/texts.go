package page

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"usher/proxy/admin/api"
	"usher/proxy/printable"
)

// ruleText is the text of a rule, which the page shows on demand.
type ruleText struct {
	ID         string // in the page
	Name       string
	At         place
	Generation string
	Text       string
}

// texts remembers the texts of rules, because they are long and never change: the hash in
// the label of a generation is that of its rules. It is safe for concurrent use.
type texts struct {
	mu    sync.Mutex
	known map[string]map[string]string // by hash and position, as in s1
	asked time.Time
}

// Bounds of texts.
const (
	textsEvery       = 10 * time.Second // between questions for texts that nobody may know any more
	textsGenerations = 16
)

// of returns the texts of generations by hash and position. It calls ask if one of them is
// not known. What it returns is not changed afterwards.
func (t *texts) of(hashes map[string]bool, ask func() api.Rules) map[string]map[string]string {
	t.mu.Lock()
	defer t.mu.Unlock()
	unknown := false
	for hash := range hashes {
		unknown = unknown || t.known[hash] == nil
	}
	if !unknown || time.Since(t.asked) < textsEvery {
		return t.known
	}
	now := map[string]map[string]string{}
	for _, g := range ask().Generations {
		rules := map[string]string{}
		for _, r := range g.Rules {
			rules[r.Rule] = r.Text
		}
		now[hashOf(g.Label)] = rules
	}
	for hash, rules := range t.known { // old ones, which recent refusals name
		if len(now) < textsGenerations && now[hash] == nil {
			now[hash] = rules
		}
	}
	t.known, t.asked = now, time.Now()
	return now
}

// hashOf returns the part of the label of a generation that never changes.
func hashOf(label string) string { return label[strings.LastIndexByte(label, '-')+1:] }

// generationsIn returns the hashes of the generations that the page names.
func generationsIn(all api.Limits, running api.Sessions, refused api.Refusals) map[string]bool {
	hashes := map[string]bool{}
	for i := range all.Limits {
		hashes[hashOf(all.Limits[i].Generation)] = true
	}
	for i := range running.Sessions {
		hashes[hashOf(running.Sessions[i].Generation)] = true
	}
	for i := range refused.Refusals {
		hashes[hashOf(refused.Refusals[i].Generation)] = true
	}
	delete(hashes, "") // of a client that left before there was a rule for it
	return hashes
}

// telling collects the texts of the rules that the page names.
type telling struct {
	known map[string]map[string]string
	named map[string]ruleText // by id
}

// id returns the id of the text of a rule, "" if the text is not known.
func (t telling) id(generation, position, name, location string) string {
	text := t.known[hashOf(generation)][position]
	if text == "" {
		return ""
	}
	id := fmt.Sprintf("rule-%x-%x", hashOf(generation), position)
	t.named[id] = ruleText{
		ID: id, Name: printable.Text(cmp.Or(name, position)), At: placeOf(location), Generation: printable.Text(generation), Text: printableLines(text),
	}
	return id
}

// printableLines makes text safe to show, and keeps its lines.
func printableLines(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	for i := range lines {
		lines[i] = printable.Text(lines[i])
	}
	return strings.Join(lines, "\n")
}

// all returns the texts in a steady order.
func (t telling) all() (list []ruleText) {
	for _, text := range t.named {
		list = append(list, text)
	}
	slices.SortFunc(list, func(a, b ruleText) int { return strings.Compare(a.ID, b.ID) })
	return list
}
