package users

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

const (
	// remember is how long a right password needs no slow hash: long enough
	// for the many connections of one browser or program.
	remember      = time.Minute
	maxRemembered = 4096 // pairs; the least recently used are removed first
)

// memory remembers which pairs of name and password were right. It holds a keyed hash
// of each pair. The key exists nowhere else. The zero memory is empty, and nothing may
// be added to it.
type memory struct {
	key [sha256.Size]byte

	mu    *sync.Mutex
	until *simplelru.LRU[mark, time.Time]
}

type mark [sha256.Size]byte

func newMemory() memory {
	until, err := simplelru.NewLRU[mark, time.Time](maxRemembered, nil)
	if err != nil {
		panic(err) // the size is not positive
	}
	m := memory{mu: new(sync.Mutex), until: until}
	rand.Read(m.key[:])
	return m
}

// mark hashes a pair. Different pairs have different inputs to the hash.
func (m *memory) mark(user, password string) mark {
	h := hmac.New(sha256.New, m.key[:])
	h.Write(binary.AppendUvarint(nil, uint64(len(user))))
	h.Write([]byte(user))
	h.Write([]byte(password))
	return mark(h.Sum(nil))
}

func (m *memory) add(user, password string) {
	k := m.mark(user, password)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.until.Add(k, time.Now().Add(remember))
}

func (m *memory) has(user, password string) bool {
	if m.until == nil {
		return false
	}
	k := m.mark(user, password)
	m.mu.Lock()
	defer m.mu.Unlock()
	until, ok := m.until.Get(k)
	return ok && time.Now().Before(until)
}
