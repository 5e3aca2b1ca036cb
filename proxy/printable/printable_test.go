package printable_test

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"usher/proxy/printable"
)

func TestText(t *testing.T) {
	for in, want := range map[string]string{
		"":                            "",
		"Grüße, 世界 😀 a\\b":            "Grüße, 世界 😀 a\\b",
		"a\nb\tc\x1b[2J":              `a\nb\tc\x1b[2J`,
		"del\x7f c1\u009b nbsp\u00a0": `del\x7f c1\u009b nbsp\u00a0`,
		"bidi\u202e zero\u200b\ufeff": `bidi\u202e zero\u200b\ufeff`,
		"tag\U000e0041 bad\xff":       `tag\U000e0041 bad\xff`,
	} {
		if got := printable.Text(in); got != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
	if got := printable.Lines("a\nb\x1b"); got != "a\nb\\x1b" {
		t.Errorf("%q", got)
	}
}

func FuzzJSON(f *testing.F) {
	f.Add("a\u202e\u0085\x7f\U000e0041 😀\xff\n")
	f.Fuzz(func(t *testing.T, s string) {
		text, err := json.Marshal(map[string]string{"key": s})
		if err != nil {
			t.Fatal(err)
		}
		shown := printable.JSON(text)
		if strings.ContainsFunc(string(shown), func(r rune) bool { return !unicode.IsPrint(r) }) || !utf8.Valid(shown) {
			t.Errorf("%q is not printable", shown)
		}
		var before, after map[string]string
		if json.Unmarshal(text, &before) != nil || json.Unmarshal(shown, &after) != nil || before["key"] != after["key"] {
			t.Errorf("%q became %q", before["key"], after["key"])
		}
	})
}
