package settings

import (
	"errors"
	"fmt"
	"os"
	"strings"
)

// maxToken bounds the file with the token, in bytes.
const maxToken = 4096

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
	if token == "" || len(token) > maxToken || strings.ContainsAny(token, "\r\n") {
		return "", fmt.Errorf("USHER_ADMIN_TOKEN_FILE: %s must have the token on one line, of at most %d bytes", file, maxToken)
	}
	return token, nil
}
