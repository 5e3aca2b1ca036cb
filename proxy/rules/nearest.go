package rules

import (
	"maps"
	"slices"
)

// nearest returns the candidate that a misspelt word most likely stands for,
// "" if none is close. Of equally close ones the first wins.
func nearest(word string, candidates []string) string {
	best, bestDistance := "", 1+len(word)/6
	if len(word) > 40 {
		return "" // too long for a misspelling, and the cost is quadratic
	}
	for _, c := range candidates {
		if d := editDistance(word, c); d <= bestDistance && c != word {
			if d < bestDistance || best == "" {
				best, bestDistance = c, d
			}
		}
	}
	return best
}

// editDistance counts insertions, deletions, substitutions and swaps of
// neighbours (optimal string alignment).
func editDistance(a, b string) int {
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			change := 1
			if a[i-1] == b[j-1] {
				change = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+change)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}

func serviceNames() []string { return slices.Sorted(maps.Keys(services)) }
