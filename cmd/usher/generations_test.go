package main

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode"
)

// Whoever can write to the store writes nothing that a terminal obeys, whether people
// look at texts of rules or at JSON.
func TestTextsOfTheStoreAreShownSafely(t *testing.T) {
	const evil = "\x1b]0;t\x07\x7f\u009b31m\u202e\u2066\u200b\ufeff"
	rules := "# rules" + evil + "\r\n\tsocks pass { from: 0/0 to: 0/0 } # für alle\n"
	if got, want := shown("a\r\n\tb # für\n"), "a\n\tb # für\n"; got != want {
		t.Errorf("%q is shown, want %q", got, want)
	}
	var out strings.Builder
	if err := printJSON(&out, map[string]string{"message": evil}); err != nil {
		t.Fatal(err)
	}
	var back map[string]string
	if err := json.Unmarshal([]byte(out.String()), &back); err != nil || back["message"] != evil {
		t.Errorf("the JSON reads %q, %v, want %q", back["message"], err, evil)
	}
	for name, text := range map[string]string{"text": shown(rules), "JSON": out.String()} {
		for _, r := range text {
			if r != '\n' && r != '\t' && !unicode.IsPrint(r) {
				t.Errorf("%s shows %q", name, r)
			}
		}
	}
}
