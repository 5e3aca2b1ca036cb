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
		var timer Timer
		timer.Start(10*time.Second, func() { expired <- time.Since(began) })
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
		var timer Timer
		timer.Start(10*time.Second, func() { t.Error("expired though it was stopped") })
		time.Sleep(9 * time.Second)
		timer.Stop()
		timer.Stop()
		time.Sleep(time.Minute)
	})
}

func TestNoLimit(t *testing.T) {
	var timer Timer
	timer.Start(0, func() { t.Error("expired") })
	timer.Touch()
	timer.Stop()
}
