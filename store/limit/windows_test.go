package limit

import (
	"fmt"
	"testing"
	"time"
)

// TestWindowIsFixed: a window begins with its first use, and neither a later
// use nor a question moves its end.
func TestWindowIsFixed(t *testing.T) {
	var w Windows
	for _, step := range []struct {
		at   time.Duration
		use  int64
		want int64
	}{
		{5, 0, 0}, {7, 1, 1}, {10, 0, 1}, {16, 2, 3}, {17, 0, 0}, {18, 1, 1}, {27, 1, 2}, {28, 0, 0},
	} {
		if step.use > 0 {
			w.Use(step.at, "a", 10, step.use)
		}
		if got := w.Used(step.at, "a"); got != step.want {
			t.Errorf("at %d: %d used, want %d", step.at, got, step.want)
		}
	}
}

func TestWindowsThatEndedAreForgotten(t *testing.T) {
	var w Windows
	for i := range time.Duration(10_000) {
		w.Use(i, fmt.Sprint(i), 10, 1)
	}
	if n := len(w.open); n > 200 {
		t.Errorf("%d windows are kept, 10 run", n)
	}
}
