package rules

import (
	"fmt"
	"strings"
	"testing"
)

func TestLintManyNames(t *testing.T) {
	list := func(n int) string {
		var b strings.Builder
		b.WriteString("socks block { from: 0/0 to: .example.com }\n")
		for i := range n {
			fmt.Fprintf(&b, "socks pass { from: 0/0 to: host%d.example.com port = http }\n", i)
		}
		return b.String()
	}
	again := "socks pass { from: 0/0 to: HOST1.example.com }\n"
	if got := lints(t, list(manyNames)+again); strings.Contains(got, "host names") {
		t.Errorf("%d names: %s", manyNames, got)
	}
	want := fmt.Sprintf("test.conf:%d:1: the rules have %d host names", manyNames+2, manyNames+3)
	if got := lints(t, list(manyNames+3)+again); !strings.Contains(got, want) || strings.Count(got, "host names") != 1 {
		t.Errorf("%d names: %s, want %s", manyNames+3, got, want)
	}
}
