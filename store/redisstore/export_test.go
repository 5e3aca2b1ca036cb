package redisstore

import "context"

// SlotOf is exported to tests, to compare it with the answers of servers.
var SlotOf = slotOf

// Command sends a command to the server of the first shard.
func (s *Store) Command(ctx context.Context, args ...any) error {
	c, err := s.Dial(ctx, 0)
	if err != nil {
		return err
	}
	defer c.Close()
	return c.(*conn).redis.Do(ctx, args...).Err()
}
