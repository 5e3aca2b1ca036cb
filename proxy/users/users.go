// Package users checks user names and passwords against a file in the format of
// Apache's htpasswd. Each line is user:hash. Empty lines and lines that begin with #
// are ignored.
//
// Accepted are bcrypt ($2y$, $2a$, $2b$), yescrypt ($y$), SHA-crypt ($5$, $6$, with or without
// rounds=) and, for files that exist already, MD5-crypt ($apr1$, $1$). Not
// accepted are plain text, {SHA} and {SSHA}, which a stolen file gives away at
// once, and hashes so costly that checking them would be an attack by itself.
// The hashing is github.com/tg123/go-htpasswd's, and for yescrypt
// github.com/go-crypt/x's; what it would take too
// lightly (a malformed hash makes it panic at the first login) is refused here
// when the file is read.
package users

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"os"
	"strings"

	htpasswd "github.com/tg123/go-htpasswd"
)

// Checker is the content of one users file, which never changes, and what it
// remembers of it. It is safe for concurrent use. The zero Checker knows nobody.
type Checker struct {
	hashes map[string]htpasswd.EncodedPasswd
	lines  map[string]digest // of each user
	decoys []decoy
	memory memory
}

// decoy is the hash of a line of the file, which stands in for the hash that
// an unknown user has not.
type decoy struct {
	key  digest // of the line, so that nobody without the file can tell which names it stands in for
	hash htpasswd.EncodedPasswd
}

// digest is a part of a cryptographic hash, in two words to compute with.
type digest [2]uint64

func digestOf(text string) digest {
	sum := sha256.Sum256([]byte(text))
	return digest{binary.BigEndian.Uint64(sum[:]), binary.BigEndian.Uint64(sum[8:])}
}

// LineError is what is wrong with one line, and the remedy. It never contains
// the hash.
type LineError struct {
	File   string
	Line   int // from 1
	What   string
	Remedy string
}

func (e *LineError) Error() string {
	return fmt.Sprintf("%s:%d: %s; %s", e.File, e.Line, e.What, e.Remedy)
}

// maxMistakes bounds the lines that are reported. A file of another kind, named by
// accident, has a mistake in each line, and each becomes a log line.
const maxMistakes = 100

// moreMistakes ends the list of mistakes before the line with the next one.
func moreMistakes(file string, line int) error {
	return &LineError{File: file, Line: line, What: "there are more mistakes from here on", Remedy: "correct the others first"}
}

// Load reads a users file. If lines of it cannot be used, the error joins a
// *LineError for each of them, up to a hundred, and there is no Checker: half a file would lock
// users out silently.
func Load(path string) (*Checker, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("users file: %w", err)
	}
	return parse(path, string(text))
}

func parse(file, text string) (*Checker, error) {
	c := &Checker{
		hashes: make(map[string]htpasswd.EncodedPasswd),
		lines:  make(map[string]digest),
		memory: newMemory(),
	}
	lines := make(map[string]int)
	var errs []error
	for i, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		user, hash, what, remedy := parseLine(line)
		if first := lines[user]; what == "" && first != 0 {
			what = fmt.Sprintf("the user %q is already on line %d", user, first)
			remedy = "remove one of the two"
		}
		if what != "" {
			if len(errs) == maxMistakes {
				errs = append(errs, moreMistakes(file, i+1))
				break
			}
			errs = append(errs, &LineError{File: file, Line: i + 1, What: what, Remedy: remedy})
			continue
		}
		lines[user] = i + 1
		c.hashes[user] = hash
		c.lines[user] = digestOf(line)
		c.decoys = append(c.decoys, decoy{c.lines[user], hash})
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return c, nil
}

// Len returns the number of users.
func (c *Checker) Len() int { return len(c.hashes) }

// Same reports whether user has the same password in both files, as far as the hashes
// tell: one that was made anew is another one. Either may be nil, which knows nobody.
func Same(a, b *Checker, user string) bool {
	if a == nil || b == nil {
		return false
	}
	line, known := a.lines[user]
	other, too := b.lines[user]
	return known && too && line == other
}

// Check reports whether password is user's, by computing one hash. The caller
// bounds how many are computed at a time. It remembers a right password, see
// Remembers.
//
// An unknown user costs what a wrong password costs: the password is hashed
// like that of some known user, see decoyFor.
func (c *Checker) Check(user, password string) bool {
	stand := c.decoyFor(user) // for known users, too, as it takes time
	hash, known := c.hashes[user]
	if !known {
		if stand == nil {
			return false
		}
		hash = stand.hash
	}
	if !hash.MatchesPassword(password) || !known {
		return false
	}
	c.memory.add(user, password)
	return true
}

// decoyFor returns the line that stands in for user if it is unknown, nil if
// the file has none. It is the same one in every process that has the file,
// and after most changes of it (rendezvous hashing), so that not even a file of
// mixed hashes tells by time who is in it.
func (c *Checker) decoyFor(user string) (first *decoy) {
	name, most := digestOf(user), uint64(0)
	for i := range c.decoys {
		d := &c.decoys[i]
		hi, lo := bits.Mul64(name[0]^d.key[0], name[1]^d.key[1])
		if rank := hi ^ lo; first == nil || rank > most {
			first, most = d, rank
		}
	}
	return first
}

// Remembers reports whether Check found this password right for user within
// the last minute. It computes no hash that is made to be slow.
func (c *Checker) Remembers(user, password string) bool { return c.memory.has(user, password) }
