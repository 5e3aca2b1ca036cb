package idle

import (
	"testing"
	"testing/synctest"
	"time"
)

// The limit counts from the last touch, and is over once.
func TestTimer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began, expired := time.Now(), make(chan time.Duration, 9)
		var (
			timer Timer
			moved Stamp
		)
		timer.Start(10*time.Second, &moved, func() { expired <- time.Since(began) })
		for range 5 {
			time.Sleep(9 * time.Second)
			timer.Touch()
		}
		time.Sleep(time.Minute)
		timer.Touch()
		time.Sleep(time.Minute)
		timer.Stop()
		if after := <-expired; after != 55*time.Second || len(expired) > 0 {
			t.Errorf("expired after %v, and %d times more; want once after 55s", after, len(expired))
		}
	})
}

func TestStoppedTimer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var (
			timer Timer
			moved Stamp
		)
		timer.Start(10*time.Second, &moved, func() { t.Error("expired though it was stopped") })
		time.Sleep(9 * time.Second)
		timer.Stop()
		timer.Stop()
		time.Sleep(time.Minute)
	})
}

func TestNoLimit(t *testing.T) {
	var (
		timer Timer
		moved Stamp
	)
	timer.Start(0, &moved, func() { t.Error("expired") })
	timer.Touch()
	timer.Stop()
}

// A shorter limit counts from when it was set, and from each touch after that,
// also where there was none. A longer one changes nothing.
func TestShorten(t *testing.T) {
	for _, c := range []struct{ before, limit, want time.Duration }{
		{0, 10 * time.Second, 5*time.Second + 45*time.Second + 10*time.Second},
		{time.Hour, 10 * time.Second, 5*time.Second + 45*time.Second + 10*time.Second},
		{10 * time.Second, time.Hour, 5*time.Second + 45*time.Second + 10*time.Second},
		{10 * time.Second, 0, 5*time.Second + 45*time.Second + 10*time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			began, expired := time.Now(), make(chan time.Duration, 9)
			var (
				timer Timer
				moved Stamp
			)
			timer.Start(c.before, &moved, func() { expired <- time.Since(began) })
			time.Sleep(5 * time.Second)
			timer.Touch()
			if shorter := timer.Shorten(c.limit); shorter != (c.before != 10*time.Second) {
				t.Errorf("%v to %v: shortened %v", c.before, c.limit, shorter)
			}
			for range 5 {
				time.Sleep(9 * time.Second)
				timer.Touch()
			}
			time.Sleep(2 * time.Hour)
			timer.Stop()
			if after := <-expired; after != c.want || len(expired) > 0 {
				t.Errorf("%v to %v: expired after %v, want %v", c.before, c.limit, after, c.want)
			}
			if timer.Shorten(time.Second) {
				t.Error("a stopped timer was set")
			}
		})
	}
}
