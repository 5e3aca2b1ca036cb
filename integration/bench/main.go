// Command bench measures admission over Redis beside its peers, in one run:
//
//	ping        a bare PING, through go-redis
//	ping-pipe   the same through a client that pipelines by itself
//	naive       the field's usual design, a sorted set of sessions per limit:
//	            one script to admit, one ZREM to release, through go-redis
//	naive-pipe  the same through a client that pipelines by itself
//	usher       limiter.Admit and Grant.Release over redisstore; like naive on
//	            16 limits, so that most sessions take a slot that one before
//	            them left here within the last 2 ms
//	usher-full  the same on 16 limits that are 92 % full, so that a slot is
//	            given back at once: only sessions that another one here ends
//	            for in the same moment do not ask Redis
//	usher-cold  the same on a million limits: every session asks Redis
//
// It starts a redis-server and worker processes of its own on loopback, runs
// the designs in turn, several rounds, and prints medians and ratios. The
// figures of a noisy machine swing; the ratios of one run are what to quote.
//
// With -held it measures instead what sessions cost Redis that are merely
// there: bytes, and CPU each heartbeat (a tenth of the TTL).
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/redis/go-redis/v9"
)

var designs = []string{"ping", "ping-pipe", "naive", "naive-pipe", "usher", "usher-full", "usher-cold"}

func main() {
	worker := flag.String("worker", "", "address of Redis: run as a worker")
	filled := flag.Int("filled", 0, "sessions that a worker holds of each limit that is nearly full")
	rounds := flag.Int("rounds", 5, "how often each design runs")
	length := flag.Duration("length", 500*time.Millisecond, "of one run")
	cases := flag.String("cases", "1x1,1x8,1x64,4x64,1x1024", "processes x callers")
	held := flag.String("held", "", "numbers of sessions that are merely held, such as 10000,1000000: measure what they cost Redis, and nothing else")
	window := flag.Duration("window", 10*time.Second, "how long Redis is watched with -held")
	flag.Parse()
	run := func() error { return measure(*rounds, *length, strings.Split(*cases, ",")) }
	if *held != "" {
		run = func() error { return measureHeld(strings.Split(*held, ","), *window) }
	}
	if *worker != "" {
		run = func() error { return work(*worker, *filled) }
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// order is what a worker is told, and result what it answers, a line each.
type order struct {
	Design  string
	Callers int
	Length  time.Duration
}

type result struct {
	PerSecond float64
	P50, P99  time.Duration
	RedisCPU  time.Duration // per pair; filled in by the parent
	Err       string
}

func measure(rounds int, length time.Duration, cases []string) error {
	ctx := context.Background()
	addr, stop, err := startRedis()
	if err != nil {
		return err
	}
	defer stop()
	server := redis.NewClient(&redis.Options{Addr: addr})
	defer server.Close()
	for _, c := range cases {
		var procs, callers int
		if _, err := fmt.Sscanf(c, "%dx%d", &procs, &callers); err != nil {
			return fmt.Errorf("case %q: want processes x callers, such as 4x64", c)
		}
		all, err := runCase(ctx, server, addr, procs, callers, rounds, length)
		if err != nil {
			return err
		}
		report(c, all)
	}
	return nil
}

func runCase(ctx context.Context, server *redis.Client, addr string, procs, callers, rounds int, length time.Duration) (map[string][]result, error) {
	var workers []*process
	defer func() {
		for _, w := range workers {
			w.stop()
		}
	}()
	for range procs {
		w, err := startWorker(addr, nearlyFilled/procs)
		if err != nil {
			return nil, err
		}
		workers = append(workers, w)
	}
	all := map[string][]result{}
	for round := range rounds + 1 {
		for _, d := range designs {
			r, err := runOnce(ctx, server, workers, order{d, callers, length})
			if err != nil {
				return nil, fmt.Errorf("%s: %w", d, err)
			}
			if round > 0 { // the first is to warm up
				all[d] = append(all[d], r)
			}
		}
	}
	return all, nil
}

// runOnce has all workers run one design at the same time.
func runOnce(ctx context.Context, server *redis.Client, workers []*process, o order) (result, error) {
	before, err := redisCPU(ctx, server)
	if err != nil {
		return result{}, err
	}
	for _, w := range workers {
		if err := w.in.Encode(o); err != nil {
			return result{}, err
		}
	}
	var sum result
	for _, w := range workers {
		var r result
		if err := w.out.Decode(&r); err != nil {
			return result{}, err
		}
		if r.Err != "" {
			return result{}, fmt.Errorf("worker: %s", r.Err)
		}
		sum.PerSecond += r.PerSecond
		sum.P50 += r.P50 / time.Duration(len(workers))
		sum.P99 = max(sum.P99, r.P99)
	}
	after, err := redisCPU(ctx, server)
	sum.RedisCPU = time.Duration(float64(after-before) / (sum.PerSecond * o.Length.Seconds()))
	return sum, err
}

func report(name string, all map[string][]result) {
	out := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(out, "%s\tper second\tp50\tp99\tRedis CPU\t/naive\t/naive-pipe\tp50/ping\tp50/ping-pipe\t\n", name)
	rate := func(d string) float64 { return median(all[d], func(r result) float64 { return r.PerSecond }) }
	p50 := func(d string) float64 { return median(all[d], func(r result) float64 { return float64(r.P50) }) }
	for _, d := range designs {
		p99 := median(all[d], func(r result) float64 { return float64(r.P99) })
		cpu := median(all[d], func(r result) float64 { return float64(r.RedisCPU) })
		fmt.Fprintf(out, "%s\t%.0f\t%v\t%v\t%v\t%.2f\t%.2f\t%.2f\t%.2f\t\n", d, rate(d),
			time.Duration(p50(d)).Round(time.Microsecond), time.Duration(p99).Round(time.Microsecond),
			time.Duration(cpu).Round(10*time.Nanosecond),
			ratio(all[d], all["naive"], func(r result) float64 { return r.PerSecond }),
			ratio(all[d], all["naive-pipe"], func(r result) float64 { return r.PerSecond }),
			ratio(all[d], all["ping"], func(r result) float64 { return float64(r.P50) }),
			ratio(all[d], all["ping-pipe"], func(r result) float64 { return float64(r.P50) }))
	}
	out.Flush()
	fmt.Println()
}

func median(rs []result, of func(result) float64) float64 {
	var list []float64
	for _, r := range rs {
		list = append(list, of(r))
	}
	return middle(list)
}

// ratio is the median of the ratios round by round: what a machine does to one
// design it mostly does to the next as well.
func ratio(a, b []result, of func(result) float64) float64 {
	var list []float64
	for i := range a {
		list = append(list, of(a[i])/of(b[i]))
	}
	return middle(list)
}

func middle(list []float64) float64 {
	slices.Sort(list)
	return list[len(list)/2]
}

// redisCPU is what the server has used so far.
func redisCPU(ctx context.Context, server *redis.Client) (time.Duration, error) {
	info, err := server.Info(ctx, "cpu").Result()
	if err != nil {
		return 0, err
	}
	var sum float64
	for _, line := range strings.Split(info, "\r\n") {
		name, value, _ := strings.Cut(line, ":")
		if name == "used_cpu_user" || name == "used_cpu_sys" {
			n, _ := strconv.ParseFloat(value, 64)
			sum += n
		}
	}
	return time.Duration(sum * float64(time.Second)), nil
}

func startRedis() (addr string, stop func(), err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	addr = l.Addr().String()
	l.Close()
	_, port, _ := net.SplitHostPort(addr)
	cmd := exec.Command("redis-server", "--bind", "127.0.0.1", "--port", port, "--save", "", "--appendonly", "no")
	if err := cmd.Start(); err != nil {
		return "", nil, err
	}
	stop = func() { _, _ = cmd.Process.Kill(), cmd.Wait() } // nothing depends on how it ends
	for range 500 {
		if c, err := net.Dial("tcp", addr); err == nil {
			c.Close()
			return addr, stop, nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	stop()
	return "", nil, fmt.Errorf("redis-server does not answer on %s", addr)
}

// process is a worker and the two ends of the talk with it.
type process struct {
	cmd *exec.Cmd
	in  *json.Encoder
	out *json.Decoder
	end func() error
}

func startWorker(addr string, filled int) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self, "-worker", addr, "-filled", strconv.Itoa(filled))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	return &process{cmd, json.NewEncoder(in), json.NewDecoder(bufio.NewReader(out)), in.Close}, cmd.Start()
}

func (p *process) stop() {
	_, _ = p.end(), p.cmd.Wait() // nothing depends on how it ends
}
