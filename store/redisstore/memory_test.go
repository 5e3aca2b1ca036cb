package redisstore_test

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	"usher/store"
	"usher/store/limit"
)

// The memory of Redis for one client address: for its window, and for its limit in the
// totals and in the ledger of one replica. docs/redis.md gives both.
const (
	windowMemory = 250
	countMemory  = 300
)

// used returns how many bytes Redis has in use.
func (m *meter) used() int64 {
	m.Helper()
	memory := m.server.Client().InfoMap(m.Context(), "memory").Val()["Memory"]["used_memory"]
	n, err := strconv.ParseInt(memory, 10, 64)
	if err != nil {
		m.Fatal(err)
	}
	return n
}

// begins starts sessions of new addresses. It returns how many were admitted, and how
// many others got no window.
func (m *meter) begins(from, to int, maxKeys int64) (admitted, noWindow int) {
	m.Helper()
	for from < to {
		var entries []store.Entry
		for ; from < to && len(entries) < store.MaxEntries; from++ {
			entries = append(entries, store.Entry{
				Counter: fmt.Sprintf("c%032x/s1/from=2001:db8:%x:%x::", 1, from>>16, from&0xffff), Max: limit.None, RuleMax: limit.None,
				Need: 1, Rate: limit.Rate{N: 5, Per: 24 * time.Hour}, MaxKeys: maxKeys,
			})
		}
		for _, c := range m.batch(entries...) {
			admitted += int(c.Admitted)
			if c.Admitted == 0 && c.NoWindow && !c.Throttled {
				noWindow++
			}
		}
	}
	return admitted, noWindow
}

// The sessions of an address with a limit take as much memory as the documentation
// says.
func TestMemoryOfCountedKeys(t *testing.T) {
	m := newMeter(t)
	const addresses = 20000
	before := m.used()
	for n := 0; n < addresses; n += store.MaxEntries {
		var entries []store.Entry
		for i := n; i < n+store.MaxEntries; i++ {
			entries = append(entries, store.Entry{
				Counter: fmt.Sprintf("c%032x/s1/from=2001:db8:%x:%x::", 1, i>>16, i&0xffff), Max: 5, RuleMax: limit.None, Live: 1, Need: 1,
			})
		}
		m.batch(entries...)
	}
	each := (m.used() - before) / addresses
	t.Logf("%d bytes for each address", each)
	if each > countMemory {
		t.Errorf("%d bytes for each address, the documentation says at most %d", each, countMemory)
	}
}

// A flood of addresses under one rule does not take more memory of Redis than the bound
// of the rule allows.
func TestWindowsAreBoundedByTheRule(t *testing.T) {
	m := newMeter(t)
	const most = 1000
	admitted, noWindow := m.begins(0, 3*most, most)
	if admitted != most || noWindow != 2*most {
		t.Errorf("%d admitted, %d without a window of %d, want %d admitted", admitted, noWindow, 3*most, most)
	}
	if n := m.server.Client().DBSize(m.Context()).Val(); n > most+4 { // m, t, r, k
		t.Errorf("%d keys, %d windows may be open", n, most)
	}
	if admitted, _ := m.begins(0, most, most); admitted != most {
		t.Errorf("%d of %d were admitted whose window runs", admitted, most)
	}
}

// A flood of addresses does not take more memory of Redis than maxmemory. Above it,
// addresses get no new windows, and everything else continues.
func TestWindowsAreBoundedByMaxmemory(t *testing.T) {
	m := newMeter(t)
	config := func(name, value string) {
		t.Helper()
		if err := m.server.Client().ConfigSet(t.Context(), name, value).Err(); err != nil {
			t.Fatal(err)
		}
	}
	const flood = 20000
	before := m.used()
	if admitted, _ := m.begins(0, flood, 0); admitted != flood {
		t.Fatalf("%d admitted of %d, without a bound", admitted, flood)
	}
	took := m.used() - before
	t.Logf("%d bytes for each address", took/flood)
	if took/flood > windowMemory {
		t.Errorf("%d bytes for each address, the documentation says at most %d", took/flood, windowMemory)
	}

	most := m.used() + took/2
	config("maxmemory", strconv.FormatInt(most, 10))
	admitted, noWindow := m.begins(flood, 3*flood, 0)
	if admitted < flood/4 || admitted > flood || admitted+noWindow != 2*flood {
		t.Errorf("%d admitted and %d without a window of %d, want about %d admitted", admitted, noWindow, 2*flood, flood/2)
	}
	// Redis may double its table of keys in the last step: 8 bytes for each key.
	if used := m.used(); used > most+16*2*flood {
		t.Errorf("%d bytes used, maxmemory is %d", used, most)
	}
	if admitted, _ := m.begins(0, store.MaxEntries, 0); admitted != store.MaxEntries {
		t.Errorf("%d of %d were admitted whose window runs", admitted, store.MaxEntries)
	}
	rule := store.Entry{Counter: "c1a/s2", Max: 3, RuleMax: limit.None, Need: 2, Rate: limit.Rate{N: 5, Per: time.Hour}}
	key := store.Entry{Counter: "c1a/s3/from=192.0.2.1", Max: 3, RuleMax: limit.None, Need: 2}
	if got := m.batch(rule, key); got[0].Admitted != 2 || got[1].Granted != 2 {
		t.Errorf("%+v: a rule's own rate, and sessions that are counted, go on", got)
	}
	config("maxmemory", "0")
	if admitted, _ := m.begins(3*flood, 3*flood+100, 0); admitted != 100 {
		t.Errorf("%d of 100 admitted when there is room again", admitted)
	}
}
