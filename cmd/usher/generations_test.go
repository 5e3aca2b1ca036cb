package main

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode"

	"usher/proxy/printable"
)

// Whoever can write to the store, or is asked by probe, writes nothing into JSON that a
// terminal obeys.
func TestJSONIsShownSafely(t *testing.T) {
	const evil = "\x1b]0;t\x07\x7f\u009b31m\u202e\u2066\u200b\ufeff"
	var out strings.Builder
	if err := printable.WriteJSON(&out, map[string]string{"message": evil}); err != nil {
		t.Fatal(err)
	}
	var back map[string]string
	if err := json.Unmarshal([]byte(out.String()), &back); err != nil || back["message"] != evil {
		t.Errorf("the JSON reads %q, %v, want %q", back["message"], err, evil)
	}
	for _, r := range out.String() {
		if r != '\n' && r != '\t' && !unicode.IsPrint(r) {
			t.Errorf("it shows %q", r)
		}
	}
}
