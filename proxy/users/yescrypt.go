package users

import (
	"crypto/subtle"
	"errors"
	"fmt"
	"strings"

	"github.com/go-crypt/x/yescrypt"
	htpasswd "github.com/tg123/go-htpasswd"
)

// Bounds on the memory that yescrypt hashes take while they are computed: Debian's
// default is 16 MiB for each.
const (
	maxYescryptMemory = 32 << 20
	maxYescrypts      = 2 // at a time, in this process
)

// yescrypts has a token for each yescrypt hash that is being computed.
var yescrypts = make(chan struct{}, maxYescrypts)

// yescryptHash is the text of a hash, $y$PARAMETERS$SALT$HASH.
type yescryptHash string

var errYescrypt = errors.New("malformed")

// acceptYescrypt is a htpasswd.PasswdParser. It computes nothing.
func acceptYescrypt(encoded string) (htpasswd.EncodedPasswd, error) {
	parts := strings.Split(encoded, "$")
	if len(parts) != 5 || yescrypt.Decode64([]byte(parts[3])) == nil || yescrypt.Decode64([]byte(parts[4])) == nil {
		return nil, errYescrypt
	}
	return yescryptHash(encoded), nil
}

// MatchesPassword waits until few enough others are computed.
func (h yescryptHash) MatchesPassword(password string) bool {
	yescrypts <- struct{}{}
	defer func() { <-yescrypts }()
	got, err := yescrypt.Hash([]byte(password), []byte(h))
	return err == nil && subtle.ConstantTimeCompare(got, []byte(h)) == 1
}

// yescryptCost says what is wrong with the parameters of a hash, which follow $y$, or
// "". Those of Debian are j9T.
func yescryptCost(parameters string) string {
	_, log2N, r, err := yescrypt.DecodeSetting([]byte(parameters))
	switch {
	case err != nil || log2N < 10 || log2N > 18 || r < 1 || r > 32:
		return fmt.Sprintf("the yescrypt parameters %q are not supported", parameters)
	case 128*r<<log2N > maxYescryptMemory:
		return fmt.Sprintf("the yescrypt hash needs %d MiB of memory, which is above %d", 128*r<<log2N>>20, maxYescryptMemory>>20)
	}
	return ""
}
