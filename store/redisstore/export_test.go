package redisstore

// SlotOf is for comparison with what servers say.
var SlotOf = slotOf
