package accounting

import (
	"bytes"
	"encoding/json"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"usher/deploy/need"
)

const page = "../../../../docs/accounting.md"

var (
	row    = regexp.MustCompile("(?m)^\\| (`[^|]+) \\| ([a-z, ]+) \\| ([a-z]+) \\| ")
	quoted = regexp.MustCompile("`([^`]+)`")
	fenced = regexp.MustCompile("(?ms)^```(\\w*)\n(.*?)^```$")
)

func readPage(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestKeysAreDocumented compares the table of keys with the types of the lines: the keys
// are a promise.
func TestKeysAreDocumented(t *testing.T) {
	documented := map[string]map[string]string{"session": {}, "sum": {}}
	for _, cells := range row.FindAllStringSubmatch(readPage(t), -1) {
		for _, key := range quoted.FindAllStringSubmatch(cells[1], -1) {
			for _, line := range strings.Split(cells[2], ", ") {
				if documented[line] == nil {
					t.Fatalf("%s: lines of %q", key[1], line)
				}
				documented[line][key[1]] = cells[3]
			}
		}
	}
	for line, of := range map[string]any{"session": ofSession{}, "sum": ofSum{}} {
		keys := keysOf(t, reflect.TypeOf(of))
		if len(keys) < 15 {
			t.Errorf("%s: only %d keys", line, len(keys))
		}
		for _, key := range slices.Sorted(maps.Keys(keys)) {
			if documented[line][key] != keys[key] {
				t.Errorf("%s.%s is %s; documented: %q", line, key, keys[key], documented[line][key])
			}
		}
		for key := range documented[line] {
			if keys[key] == "" {
				t.Errorf("%s.%s is documented and does not exist", line, key)
			}
		}
	}
}

// keysOf returns the JSON keys of a struct with the words for their types, as
// encoding/json finds them: a key hides those of embedded structs.
func keysOf(t *testing.T, of reflect.Type) map[string]string {
	t.Helper()
	keys := map[string]string{}
	for i := range of.NumField() {
		field := of.Field(i)
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		inner := field.Type
		if inner.Kind() == reflect.Pointer {
			inner = inner.Elem()
		}
		switch {
		case field.Anonymous:
			for key, kind := range keysOf(t, inner) {
				if keys[key] == "" {
					keys[key] = kind
				}
			}
			continue
		case name == "":
			t.Errorf("%v.%s has no key", of, field.Name)
			continue
		case inner == reflect.TypeFor[struct{}]():
			keys[name] = "hidden"
			continue
		}
		keys[name] = kindOf(inner)
		if inner.Kind() == reflect.Slice {
			inner = inner.Elem()
		}
		if inner.Kind() == reflect.Struct && keys[name] != "text" && keys[name] != "time" {
			for key, kind := range keysOf(t, inner) {
				keys[name+"."+key] = kind
			}
		}
	}
	for i := range of.NumField() { // hidden keys are not written
		name, _, _ := strings.Cut(of.Field(i).Tag.Get("json"), ",")
		if keys[name] == "hidden" {
			delete(keys, name)
		}
	}
	return keys
}

func kindOf(of reflect.Type) string {
	switch {
	case of == reflect.TypeFor[time.Time]():
		return "time"
	case of == reflect.TypeFor[netip.Addr](), of == reflect.TypeFor[netip.AddrPort]():
		return "text"
	}
	switch of.Kind() {
	case reflect.String:
		return "text"
	case reflect.Bool:
		return "boolean"
	case reflect.Int, reflect.Int64, reflect.Float64:
		return "number"
	case reflect.Slice:
		return "list"
	}
	return "object"
}

// blocks returns the fenced blocks of the page with a language, or whose first line is
// the comment.
func blocks(t *testing.T, language, comment string) (list []string) {
	t.Helper()
	for _, block := range fenced.FindAllStringSubmatch(readPage(t), -1) {
		if block[1] == language && strings.HasPrefix(block[2], comment) {
			list = append(list, block[2])
		}
	}
	return list
}

// The lines of the page are what the code writes for such sessions.
func TestDocumentedLines(t *testing.T) {
	example := blocks(t, "json", "")
	if len(example) != 1 {
		t.Fatalf("%d blocks", len(example))
	}
	for text := range strings.Lines(example[0]) {
		var line any = new(ofSession)
		if strings.Contains(text, `"from":`) {
			line = new(ofSum)
		}
		decoder := json.NewDecoder(strings.NewReader(text))
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(line); err != nil {
			t.Fatalf("%v: %s", err, text)
		}
		if got, err := json.Marshal(line); err != nil || string(got) != strings.TrimSpace(text) {
			t.Errorf("%v\n%s\nthe page has\n%s", err, got, text)
		}
	}
}

// The commands of the page work on its lines.
func TestDocumentedCommands(t *testing.T) {
	need.Program(t, "jq")
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "accounting"), []byte(blocks(t, "json", "")[0]), 0o600); err != nil {
		t.Fatal(err)
	}
	var got []string
	for command := range strings.Lines(blocks(t, "", "jq ")[0]) {
		shell := exec.Command("sh", "-c", command)
		shell.Dir = dir
		out, err := shell.CombinedOutput()
		var compact bytes.Buffer
		if err != nil || json.Compact(&compact, out) != nil {
			t.Fatalf("%s%v: %s", command, err, out)
		}
		got = append(got, compact.String())
	}
	if want := []string{`{"limit":4212}`, `{"ann":91244}`}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}
