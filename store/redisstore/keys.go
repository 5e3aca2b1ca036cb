package redisstore

import "fmt"

// keys has the names of a shard's keys in Redis. All of them have one hash tag, so a
// shard is in one slot of a Redis Cluster.
type keys struct{ prefix string }

func keysOf(cluster string, shard int) keys {
	return keys{fmt.Sprintf("usher:{%s:%d}:", cluster, shard)}
}

// membership is m, the only key that an observer reads.
func (k keys) membership() string { return k.prefix + "m" }

// totals is t.
func (k keys) totals() string { return k.prefix + "t" }

// ledger is r of one replica.
func (k keys) ledger(replica string) string { return k.prefix + "r:" + replica }

// window is w of a counter, or of a rule with keys.
func (k keys) window(counter string) string { return k.prefix + "w:" + counter }

// opened is k of a rule with keys.
func (k keys) opened(rule string) string { return k.prefix + "k:" + rule }

// all lists the keys of an operation on a replica's counts, as scripts declare them.
func (k keys) all(replica string) []string {
	return []string{k.membership(), k.totals(), k.ledger(replica)}
}

// Published rules are in the first shard, so that one connection is enough for both.

// generations is g: n = the newest number; id of that generation; by number, what
// describes it.
func (k keys) generations() string { return k.prefix + "g" }

// texts is x: by number, the text of a generation.
func (k keys) texts() string { return k.prefix + "x" }

// reports is on: by replica, its last report.
func (k keys) reports() string { return k.prefix + "on" }

// reported is on:replica, which expires unless the replica reports.
func (k keys) reported(replica string) string { return k.prefix + "on:" + replica }

// cards is c, in the first shard as well: by replica, when it has shown its card last,
// and the card.
func (k keys) cards() string { return k.prefix + "c" }
