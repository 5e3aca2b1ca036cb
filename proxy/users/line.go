package users

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	htpasswd "github.com/tg123/go-htpasswd"
	"golang.org/x/crypto/bcrypt"
)

// Bounds on what one login may cost: about a second of a processor. yescrypt.go has
// those on memory.
const (
	maxBcryptCost = 14
	minRounds     = 1000 // fewer are computed as 1000, by the definition of SHA-crypt
	maxRounds     = 1_000_000
)

const newHash = `set a new password with "htpasswd -nB USER"`

// maxUser is the longest user name that RFC 1929 can carry, in bytes.
const maxUser = 255

// scheme is one accepted form of hash.
type scheme struct {
	name     string
	prefixes []string
	form     *regexp.Regexp // of the whole hash; the groups "rounds" and "yescrypt" are looked at if they exist
	accept   htpasswd.PasswdParser
}

var schemes = []scheme{
	{"bcrypt", []string{"$2y$", "$2a$", "$2b$"},
		regexp.MustCompile(`^\$2[aby]\$\d\d\$[./A-Za-z0-9]{53}$`), htpasswd.AcceptBcrypt},
	{"SHA-512-crypt", []string{"$6$"},
		regexp.MustCompile(`^\$6\$(?:rounds=(?P<rounds>\d{1,9})\$)?[^$:\s]{1,16}\$[./A-Za-z0-9]{86}$`), htpasswd.AcceptCryptSha},
	{"SHA-256-crypt", []string{"$5$"},
		regexp.MustCompile(`^\$5\$(?:rounds=(?P<rounds>\d{1,9})\$)?[^$:\s]{1,16}\$[./A-Za-z0-9]{43}$`), htpasswd.AcceptCryptSha},
	{"yescrypt", []string{"$y$"}, // Debian's default
		regexp.MustCompile(`^\$y\$(?P<yescrypt>[./A-Za-z0-9]{1,16})\$[./A-Za-z0-9]{2,86}\$[./A-Za-z0-9]{43}$`), acceptYescrypt},
	{"MD5-crypt", []string{"$apr1$", "$1$"},
		regexp.MustCompile(`^\$(?:apr1|1)\$[^$:\s]{1,8}\$[./A-Za-z0-9]{22}$`), htpasswd.AcceptMd5},
}

// parseLine reads user:hash. If it cannot, it returns what is wrong, and the remedy.
func parseLine(line string) (user string, hash htpasswd.EncodedPasswd, what, remedy string) {
	user, encoded, ok := strings.Cut(line, ":")
	switch {
	case !ok:
		return "", nil, "there is no colon between user and hash", newHash
	case user == "":
		return "", nil, "the user name is empty", newHash
	case len(user) > maxUser:
		return "", nil, "the user name is longer than 255 bytes, which no client can send", "shorten it"
	case !utf8.ValidString(user) || strings.ContainsFunc(user, unicode.IsControl):
		return "", nil, "the user name has control characters or is not UTF-8", "rename the user"
	}
	hash, what, remedy = parseHash(encoded)
	return user, hash, what, remedy
}

// parseHash checks a hash before the library gets it.
func parseHash(encoded string) (hash htpasswd.EncodedPasswd, what, remedy string) {
	s, ok := schemeOf(encoded)
	if !ok {
		what, remedy = foreign(encoded)
		return nil, what, remedy
	}
	parts := s.form.FindStringSubmatch(encoded)
	if parts == nil {
		return nil, "the " + s.name + " hash is malformed", newHash
	}
	if what := cost(s, parts, encoded); what != "" {
		return nil, what, newHash
	}
	hash, err := s.accept(encoded)
	if err != nil || hash == nil {
		return nil, "the " + s.name + " hash is malformed", newHash
	}
	return hash, "", ""
}

const accepted = "bcrypt, yescrypt, SHA-crypt and MD5-crypt"

// foreignForms are forms of passwords in files of other programs that Usher does not
// accept.
var foreignForms = []struct{ prefix, name string }{
	{"$gy$", "a gost-yescrypt hash"},
	{"$7$", "an scrypt hash"},
	{"$argon2", "an Argon2 hash"},
	{"{SHA}", "a SHA-1 hash without salt"},
	{"{SSHA}", "a SHA-1 hash"},
}

// foreign returns what form a password has that is not accepted, and the remedy.
func foreign(encoded string) (what, remedy string) {
	if strings.HasPrefix(encoded, "!") || strings.HasPrefix(encoded, "*") {
		return "the account is locked, so nobody can log in by it", "remove the line, or " + newHash
	}
	for _, f := range foreignForms {
		if strings.HasPrefix(encoded, f.prefix) {
			return "the password is " + f.name + ", which is not accepted (" + accepted + " are)", newHash
		}
	}
	return "the password is in plain text or in a form that is not accepted (" + accepted + " are)", newHash
}

func schemeOf(encoded string) (scheme, bool) {
	for _, s := range schemes {
		for _, prefix := range s.prefixes {
			if strings.HasPrefix(encoded, prefix) {
				return s, true
			}
		}
	}
	return scheme{}, false
}

// cost returns why a hash is too expensive to check, or "".
func cost(s scheme, parts []string, encoded string) string {
	if s.name == "bcrypt" {
		switch c, err := bcrypt.Cost([]byte(encoded)); {
		case err != nil:
			return "the bcrypt hash is malformed"
		case c > maxBcryptCost:
			return fmt.Sprintf("the bcrypt cost %d is above %d", c, maxBcryptCost)
		}
	}
	if i := s.form.SubexpIndex("yescrypt"); i >= 0 {
		return yescryptCost(parts[i])
	}
	if i := s.form.SubexpIndex("rounds"); i >= 0 && parts[i] != "" {
		if n, err := strconv.Atoi(parts[i]); err != nil || n < minRounds || n > maxRounds || parts[i][0] == '0' {
			return fmt.Sprintf("rounds=%s is outside %d to %d", parts[i], minRounds, maxRounds)
		}
	}
	return ""
}
