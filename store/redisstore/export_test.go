package redisstore

import "context"

// SlotOf is for comparison with what servers say.
var SlotOf = slotOf

// Command says something to the server of the first shard.
func (s *Store) Command(ctx context.Context, args ...any) error {
	c, err := s.Dial(ctx, 0)
	if err != nil {
		return err
	}
	defer c.Close()
	return c.(*conn).redis.Do(ctx, args...).Err()
}
