package rules

import (
	"go/ast"
	goparser "go/parser"
	gotoken "go/token"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// Every message of the parser appears in a golden file. Messages are the strings with
// at least two words in its source.
func TestEveryTextIsSaid(t *testing.T) {
	var golden strings.Builder
	for _, dir := range []string{"good", "bad"} {
		for _, file := range cases(t, filepath.Join("testdata", dir, "*.conf")) {
			golden.Write(read(t, strings.TrimSuffix(file, ".conf")+".golden"))
		}
	}
	sentence := regexp.MustCompile(`[a-z:]+ [a-z]+`)
	verbs := regexp.MustCompile(`%[sdq]`)
	texts := 0
	for _, file := range []string{
		"parse.go", "block.go", "lex.go", "values.go", "choices.go", "keywords.go", "check.go", "session.go", "address.go", "server.go",
	} {
		parsed, err := goparser.ParseFile(gotoken.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(parsed, func(n ast.Node) bool {
			literal, ok := n.(*ast.BasicLit)
			if !ok || literal.Kind != gotoken.STRING {
				return true
			}
			text, _ := strconv.Unquote(literal.Value)
			if !sentence.MatchString(text) {
				return true
			}
			texts++
			for _, part := range verbs.Split(text, -1) {
				if !strings.Contains(golden.String(), part) {
					t.Errorf("%s: no case in testdata provokes %q", file, text)
					break
				}
			}
			return true
		})
	}
	if texts < 100 {
		t.Errorf("only %d texts found; has the source moved?", texts)
	}
}
