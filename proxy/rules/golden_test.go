package rules

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files anew; read what changed before you commit")

// testEnv has a few interfaces, as a small machine would.
var testEnv = Env{Interface: func(name string) ([]netip.Addr, bool) {
	addrs := map[string][]netip.Addr{
		"lo":    {netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::1")},
		"Wan0":  {netip.MustParseAddr("192.0.2.1")},
		"eth0":  {netip.MustParseAddr("::ffff:10.1.2.3"), netip.MustParseAddr("fe80::1%eth0")},
		"down0": {},
	}[name]
	return addrs, addrs != nil
}}

func TestGoodFiles(t *testing.T) {
	for _, file := range cases(t, "testdata/good/*.conf") {
		t.Run(filepath.Base(file), func(t *testing.T) {
			set, diags := Parse(filepath.Base(file), read(t, file), testEnv)
			if set == nil {
				t.Fatalf("refused:\n%s", findings(diags))
			}
			golden(t, file, fmt.Sprintf("%sdigest %s\n\n%s", findings(diags), set.Digest(), set))
			checkCanonical(t, set)
		})
	}
}

func TestBadFiles(t *testing.T) {
	for _, file := range cases(t, "testdata/bad/*.conf") {
		t.Run(filepath.Base(file), func(t *testing.T) {
			set, diags := Parse(filepath.Base(file), read(t, file), testEnv)
			if set != nil {
				t.Errorf("accepted as\n%s", set)
			}
			golden(t, file, findings(diags))
		})
	}
}

// cases returns the files of a pattern and fails if there are none.
func cases(tb testing.TB, pattern string) []string {
	tb.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) < 5 {
		tb.Fatalf("%s: %d files, %v; the folder of cases is missing", pattern, len(files), err)
	}
	return files
}

func read(tb testing.TB, file string) []byte {
	tb.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		tb.Fatal(err)
	}
	return text
}

// golden compares got with the file of the same name that ends in .golden.
func golden(t *testing.T, file, got string) {
	t.Helper()
	name := strings.TrimSuffix(file, ".conf") + ".golden"
	if *update {
		if err := os.WriteFile(name, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if want := string(read(t, name)); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func findings(diags []Diagnostic) string {
	var b strings.Builder
	for _, d := range diags {
		fmt.Fprintf(&b, "%s %s\n", d.Severity, d)
	}
	return b.String()
}
