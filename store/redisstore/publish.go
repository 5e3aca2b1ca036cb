package redisstore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/redis/go-redis/v9"

	"usher/store"
	"usher/store/published"
)

// Connections to the first shard also serve published rules. These operations do not
// count sessions.
var _ published.Conn = (*conn)(nil)

// Published opens a connection to the published rules of the cluster.
func (s *Store) Published(ctx context.Context) (published.Conn, error) {
	c, err := s.Dial(ctx, 0)
	if err != nil {
		return nil, err
	}
	return c.(*conn), nil
}

// Exchange implements published.Conn.
func (c *conn) Exchange(ctx context.Context, e published.Exchange) (_ published.News, err error) {
	defer show(&err)
	report, err := json.Marshal(e.Report)
	if err != nil {
		return published.News{}, err
	}
	keys := []string{c.keys.reports(), c.keys.reported(e.Report.Replica), c.keys.generations(), c.keys.texts()}
	reply, err := c.send(ctx, c.scripts.exchange, keys, []any{e.Report.Replica, report, e.TTL.Milliseconds(), e.Have})
	if err != nil {
		return published.News{}, unreadableReply(err)
	}
	r := read(reply)
	news := published.News{Latest: parseUint(r.text()), ID: r.text()}
	if len(r.rest) == 0 || r.err != nil {
		return news, garbled(r.err)
	}
	about, rules := r.text(), r.text()
	if news.Text, err = textOf(strconv.FormatUint(news.Latest, 10), about, rules); err != nil {
		return news, err
	}
	return news, garbled(r.err)
}

// unreadableReply marks an error about the data itself, such as a key of another type.
// It leaves other errors unchanged, because the caller can react to them.
func unreadableReply(err error) error {
	var reply redis.Error
	if !errors.As(err, &reply) || errors.Is(err, store.ErrMoved) || errors.Is(err, store.ErrBusy) {
		return err
	}
	return garbled(err)
}

func garbled(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", published.ErrUnreadable, err)
}

// textOf puts a generation together from its description and its text.
func textOf(number, about, rules string) (*published.Text, error) {
	g, err := describedBy(number, about)
	if err != nil {
		return nil, garbled(fmt.Errorf("generation %s: %w", number, err))
	}
	return &published.Text{Generation: g, Rules: rules}, nil
}

// describedBy reads the description of a generation.
func describedBy(number, about string) (g published.Generation, err error) {
	if err := json.Unmarshal([]byte(about), &g); err != nil {
		return g, err
	}
	if strconv.FormatUint(g.Number, 10) != number {
		return g, fmt.Errorf("its description is that of generation %d", g.Number)
	}
	return g, nil
}

// Publish implements published.Conn.
func (c *conn) Publish(ctx context.Context, t published.Text, after uint64) (latest uint64, ok bool, err error) {
	return c.publish(ctx, t, strconv.FormatUint(after, 10))
}

// Restore implements published.Conn.
func (c *conn) Restore(ctx context.Context, t published.Text) (latest uint64, err error) {
	latest, _, err = c.publish(ctx, t, "-")
	return latest, err
}

func (c *conn) publish(ctx context.Context, t published.Text, after string) (latest uint64, ok bool, err error) {
	defer show(&err)
	about, err := json.Marshal(t.Generation)
	if err != nil {
		return 0, false, err
	}
	keys := []string{c.keys.generations(), c.keys.texts()}
	reply, err := c.send(ctx, publishScript(), keys, []any{after, t.Number, t.ID(), about, t.Rules, published.Keep})
	if err != nil {
		return 0, false, unreadableReply(err)
	}
	r := read(reply)
	latest, ok = parseUint(r.text()), r.text() == t.ID()
	return latest, ok, garbled(r.err)
}

// Generations implements published.Conn.
func (c *conn) Generations(ctx context.Context) (list []published.Kept, err error) {
	defer show(&err)
	if err := c.checkPrimary(); err != nil {
		return nil, err
	}
	fields, err := c.redis.HGetAll(ctx, c.keys.generations()).Result()
	if err != nil {
		return nil, unreadableReply(classify(err))
	}
	if fields["n"] == "" {
		return nil, nil
	}
	latest, err := strconv.ParseUint(fields["n"], 10, 64)
	if err != nil {
		return nil, garbled(fmt.Errorf("the newest number is %q", fields["n"]))
	}
	numbers := []uint64{latest} // also if its description is missing
	for field := range fields {
		if number, err := strconv.ParseUint(field, 10, 64); err == nil && number < latest {
			numbers = append(numbers, number)
		}
	}
	slices.Sort(numbers)
	for _, number := range slices.Backward(numbers) {
		field := strconv.FormatUint(number, 10)
		g, err := describedBy(field, fields[field])
		if err != nil {
			list = append(list, published.Kept{Generation: published.Generation{Number: number}, Unreadable: err.Error()})
			continue
		}
		list = append(list, published.Kept{Generation: g})
	}
	return list, nil
}

// Text implements published.Conn.
func (c *conn) Text(ctx context.Context, number uint64) (_ *published.Text, err error) {
	defer show(&err)
	if err := c.checkPrimary(); err != nil {
		return nil, err
	}
	field := strconv.FormatUint(number, 10)
	var about, rules *redis.StringCmd
	_, err = c.redis.Pipelined(ctx, func(p redis.Pipeliner) error {
		about, rules = p.HGet(ctx, c.keys.generations(), field), p.HGet(ctx, c.keys.texts(), field)
		return nil
	})
	if errors.Is(err, redis.Nil) {
		return nil, nil
	}
	if err != nil {
		return nil, unreadableReply(classify(err))
	}
	return textOf(field, about.Val(), rules.Val())
}

// Replicas implements published.Conn.
func (c *conn) Replicas(ctx context.Context) (_ published.Replicas, err error) {
	defer show(&err)
	members, err := c.Observe(ctx, nil)
	if err != nil {
		return published.Replicas{}, unreadableReply(err)
	}
	reports, err := c.redis.HGetAll(ctx, c.keys.reports()).Result()
	if err != nil {
		return published.Replicas{}, unreadableReply(classify(err))
	}
	alive, err := c.forgetOutdated(ctx, reports)
	if err != nil {
		return published.Replicas{}, unreadableReply(classify(err))
	}
	var out published.Replicas
	for replica := range alive {
		var r published.Report
		if err := json.Unmarshal([]byte(reports[replica]), &r); err != nil || r.Replica != replica {
			return published.Replicas{}, garbled(errors.New("a replica's report is none of Usher's"))
		}
		if r.Left {
			out.Left = append(out.Left, replica)
		} else {
			out.Reports = append(out.Reports, r)
		}
	}
	slices.SortFunc(out.Reports, published.ByName)
	for _, m := range members.Members {
		if !alive[m.Replica] {
			out.Silent = append(out.Silent, m.Replica)
		}
	}
	return out, nil
}

// forgetOutdated returns the replicas that have reported lately, and deletes the
// reports of the others. A replica that reports at this moment may lose its report
// until the next one.
func (c *conn) forgetOutdated(ctx context.Context, reports map[string]string) (alive map[string]bool, err error) {
	if len(reports) == 0 {
		return nil, nil
	}
	var replicas, marks, outdated []string
	for replica := range reports {
		replicas, marks = append(replicas, replica), append(marks, c.keys.reported(replica))
	}
	found, err := c.redis.MGet(ctx, marks...).Result()
	if err != nil {
		return nil, err
	}
	alive = map[string]bool{}
	for i, replica := range replicas {
		if found[i] != nil {
			alive[replica] = true
		} else {
			outdated = append(outdated, replica)
		}
	}
	if len(outdated) == 0 {
		return alive, nil
	}
	return alive, c.redis.HDel(ctx, c.keys.reports(), outdated...).Err()
}
