package settings

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
)

// Bounds of the token, in bytes. It cannot be guessed if it is random.
const (
	minToken = 16
	maxToken = 512
)

// Token is the token of the admin listener. Never show it.
type Token string

// UnmarshalText implements encoding.TextUnmarshaler. Its errors do not quote the text.
func (t *Token) UnmarshalText(text []byte) error {
	unfit := func(b byte) bool { return b <= ' ' || b > '~' }
	if len(text) < minToken || len(text) > maxToken || slices.ContainsFunc(text, unfit) {
		return fmt.Errorf("the token must have %d to %d printable ASCII characters without blanks; make one with: openssl rand -hex 24", minToken, maxToken)
	}
	*t = Token(text)
	return nil
}

// Token returns what reads the token of the admin listener, nil if none is set.
func (cfg Config) Token() func() (string, error) {
	if cfg.AdminToken == "" && cfg.AdminTokenFile == "" {
		return nil
	}
	environ := map[string]string{"USHER_ADMIN_TOKEN": string(cfg.AdminToken), "USHER_ADMIN_TOKEN_FILE": cfg.AdminTokenFile}
	return func() (string, error) { return AdminToken(environ) }
}

// AdminToken returns the token of the admin listener: USHER_ADMIN_TOKEN, or the one line
// of the file that USHER_ADMIN_TOKEN_FILE names. "" means that there is none. Commands
// that ask an admin listener read it without the other variables, which may be those of
// another machine.
func AdminToken(environ map[string]string) (string, error) {
	token, file := environ["USHER_ADMIN_TOKEN"], environ["USHER_ADMIN_TOKEN_FILE"]
	switch {
	case token != "" && file != "":
		return "", errors.New("USHER_ADMIN_TOKEN and USHER_ADMIN_TOKEN_FILE are both set; set one of them")
	case file == "":
		return token, nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("USHER_ADMIN_TOKEN_FILE: %w", err)
	}
	token = strings.TrimSpace(string(text))
	if err := new(Token).UnmarshalText([]byte(token)); err != nil {
		return "", fmt.Errorf("USHER_ADMIN_TOKEN_FILE: %s: %w", file, err)
	}
	return token, nil
}
