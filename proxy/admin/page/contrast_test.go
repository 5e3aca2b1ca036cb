package page

import (
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// The contrast of text with what is behind it is at least 4.5, as WCAG 2.2 AA wants it,
// and that of parts of pictures and of the borders of fields at least 3, in both schemes.
// The browser test measures it again where the text stands.
func TestContrast(t *testing.T) {
	css, err := files.ReadFile("files/page.css")
	if err != nil {
		t.Fatal(err)
	}
	schemes := regexp.MustCompile(`(?s):root \{(.*?)\n\s*\}`).FindAllStringSubmatch(string(css), -1)
	if len(schemes) != 2 {
		t.Fatalf("%d colour schemes, want a light and a dark one", len(schemes))
	}
	for i, name := range []string{"light", "dark"} {
		colors := map[string]string{}
		for _, m := range regexp.MustCompile(`--([\w-]+): (#[0-9a-f]{6});`).FindAllStringSubmatch(schemes[i][1], -1) {
			colors[m[1]] = m[2]
		}
		check := func(least float64, fore string, behind ...string) {
			for _, back := range behind {
				if got := contrast(colors[fore], colors[back]); !(got >= least) {
					t.Errorf("%s: %s on %s has a contrast of %.2f, want %.1f", name, fore, back, got, least)
				}
			}
		}
		for _, text := range []string{"ink", "soft", "link", "bad", "warn"} {
			check(4.5, text, "ground", "surface")
		}
		check(4.5, "ok", "ok-tint")
		check(4.5, "warn", "warn-tint")
		check(4.5, "bad", "bad-tint")
		check(4.5, "on-button", "button")
		check(4.5, "on-danger", "danger")
		check(4.5, "ground", "ink")
		check(3, "edge", "ground", "surface")
		check(3, "focus", "ground", "surface")
		for i := range colored {
			check(3, fmt.Sprintf("r%d", i), "track", "surface", "ground")
		}
		check(3, "rest", "track", "surface")
		check(3, "ok", "ground")
	}
	if got := contrast("#000000", "#ffffff"); math.Abs(got-21) > 0.001 {
		t.Errorf("black on white has a contrast of %v, want 21", got)
	}
}

// contrast returns the ratio that WCAG defines for two colours, NaN if one is missing.
func contrast(a, b string) float64 {
	la, lb := luminance(a), luminance(b)
	return (math.Max(la, lb) + 0.05) / (math.Min(la, lb) + 0.05)
}

func luminance(color string) float64 {
	rgb, err := strconv.ParseUint(strings.TrimPrefix(color, "#"), 16, 32)
	if err != nil || color == "" {
		return math.NaN()
	}
	linear := func(shift uint) float64 {
		v := float64(rgb>>shift&0xff) / 255
		if v <= 0.04045 {
			return v / 12.92
		}
		return math.Pow((v+0.055)/1.055, 2.4)
	}
	return 0.2126*linear(16) + 0.7152*linear(8) + 0.0722*linear(0)
}
