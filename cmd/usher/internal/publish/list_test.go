package publish

import (
	"testing"
	"unicode"
)

// Whoever can write to the store writes nothing into texts of rules that a terminal
// obeys.
func TestTextsOfTheStoreAreShownSafely(t *testing.T) {
	const evil = "\x1b]0;t\x07\x7f\u009b31m\u202e\u2066\u200b\ufeff"
	rules := "# rules" + evil + "\r\n\tsocks pass { from: 0/0 to: 0/0 } # für alle\n"
	if got, want := shown("a\r\n\tb # für\n"), "a\n\tb # für\n"; got != want {
		t.Errorf("%q is shown, want %q", got, want)
	}
	for _, r := range shown(rules) {
		if r != '\n' && r != '\t' && !unicode.IsPrint(r) {
			t.Errorf("it shows %q", r)
		}
	}
}
