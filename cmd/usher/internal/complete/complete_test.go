package complete

import (
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

// app is a command line with one of each.
type app struct {
	Rename struct {
		From  string   `arg:"" name:"file"`
		To    []string `arg:"" optional:"" complete:"name"`
		Force bool     `short:"f" help:"Do it. Really."`
		How   string   `enum:"fast,slow" default:"fast"`
		Log   string   `placeholder:"FILE"`
		Note  string
		By    string `complete:"name"`
	} `cmd:"" help:"Give a file another name. Then be glad."`
	Remove struct{} `cmd:""`
	Secret struct{} `cmd:"" hidden:""`
}

func TestCandidates(t *testing.T) {
	parser, err := kong.New(&app{}, kong.Name("app"))
	if err != nil {
		t.Fatal(err)
	}
	names := func(kind string) []Candidate {
		return []Candidate{{Value: "kim", Help: kind}, {Value: "al"}, {Value: ""}, {Value: "al"}}
	}
	for words, want := range map[string]string{
		"":                          "remove rename",
		"ren":                       "rename",
		"x":                         "",
		"--":                        "--help",
		"rename ":                   ":files",
		"rename a ":                 "al kim",
		"rename a b k":              "kim",
		"rename --":                 "--by --force --help --how --log --note",
		"rename -f --":              "--by --help --how --log --note",
		"rename --how=fast --b":     "--by",
		"rename --how ":             "fast slow",
		"rename --how=s":            "--how=slow",
		"rename --nothing=s":        "",
		"rename --log ":             ":files",
		"rename --log=so":           ":files",
		"rename --note ":            "",
		"rename --by ":              "al kim",
		"rename --by k":             "kim",
		"rename --by x -f a ":       "al kim",
		"rename a -- -":             "",
		"rename --unknown --how sl": "slow",
		"remove ":                   "",
	} {
		var got []string
		for _, c := range Candidates(parser.Model, strings.Split(words, " "), names) {
			got = append(got, c.Value)
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%q: %q, want %q", words, got, want)
		}
	}
	if list := Candidates(parser.Model, nil, nil); len(list) != 2 || list[1].Help != "Give a file another name" {
		t.Error(list)
	}
}

// Values come from clients, by way of a running usher.
func TestWrite(t *testing.T) {
	var b strings.Builder
	if err := Write(&b, []Candidate{{"a", "b\nc"}, {"x\x1b", ""}, {"d", ""}}); err != nil || b.String() != "a\tb\\nc\nd\n" {
		t.Errorf("%v %q", err, b.String())
	}
}

func TestScripts(t *testing.T) {
	for _, shell := range Shells {
		if text, err := Script(shell); err != nil || !strings.Contains(text, "complete -- ") {
			t.Error(shell, err)
		}
	}
	if _, err := Script("csh"); err == nil {
		t.Error("there is a script for csh")
	}
}
