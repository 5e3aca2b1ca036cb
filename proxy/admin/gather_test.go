package admin

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// Scrapes that come while one collects share its result; the next one collects anew.
func TestScrapesShareACollection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		calls := 0
		g := &oneAtATime{Gatherer: prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) {
			mu.Lock()
			calls++
			mu.Unlock()
			time.Sleep(time.Second)
			return make([]*dto.MetricFamily, 3), nil
		})}
		for want := 1; want <= 2; want++ {
			var group sync.WaitGroup
			for range 8 {
				group.Go(func() {
					if families, err := g.Gather(); len(families) != 3 || err != nil {
						t.Errorf("%d families, %v", len(families), err)
					}
				})
			}
			group.Wait()
			if calls != want {
				t.Errorf("%d collections, want %d", calls, want)
			}
		}
	})
}
