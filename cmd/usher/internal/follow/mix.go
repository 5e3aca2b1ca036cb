package follow

import (
	"context"
	"errors"
	"time"

	"usher/store/published"
)

// mixPause is the time between two looks for members that do not follow, in TTLs.
const mixPause = 3

// lookForMix warns of members with rule files of their own. Two looks in a row must find
// some, because a replica that starts or dies looks the same for a moment.
func (f *Follower) lookForMix(ctx context.Context, conn published.Conn) error {
	f.mu.Lock()
	due := time.Since(f.mixedAt) >= mixPause*f.o.TTL
	if due {
		f.mixedAt = time.Now()
	}
	f.mu.Unlock()
	if !due {
		return nil
	}
	all, err := conn.Replicas(ctx)
	if errors.Is(err, published.ErrUnreadable) {
		f.unreadable(err)
		return nil
	}
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(all.Silent) == 0 {
		f.mixed, f.state.Silent = false, nil
		return nil
	}
	if f.mixed && f.state.Silent == nil {
		f.state.Silent = all.Silent
		f.log.Warn("members of the cluster do not follow the published rules", "members", all.Silent,
			"cause", "they have rule files of their own", "remedy", "set USHER_CONFIG=store on all replicas")
	}
	f.mixed = true
	return nil
}
