// Command apply measures how long new rules take to be in force on all replicas: from
// when usher apply has published them until it sees that the last replica follows.
//
//	go -C integration run ./bench/apply -replicas 3,20 -rounds 100
//
// It builds usher, and starts a redis-server and the replicas on loopback. Two rule
// files are published in turn. Each round begins at another moment of the heartbeats.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

func main() {
	replicas := flag.String("replicas", "3,20", "numbers of replicas")
	rounds := flag.Int("rounds", 100, "how often rules are published")
	ttl := flag.Duration("ttl", 10*time.Second, "lease TTL of the replicas")
	flag.Parse()
	if err := measure(*replicas, *rounds, *ttl); err != nil {
		fmt.Fprintln(os.Stderr, "apply:", err)
		os.Exit(1)
	}
}

func measure(replicas string, rounds int, ttl time.Duration) error {
	dir, err := os.MkdirTemp("", "apply")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := build(dir); err != nil {
		return err
	}
	fmt.Printf("lease TTL %v, %d rounds\nreplicas\tp50\tp99\tmost\n", ttl, rounds)
	for text := range strings.SplitSeq(replicas, ",") {
		n, err := strconv.Atoi(text)
		if err != nil {
			return err
		}
		took, err := run(dir, n, rounds, ttl)
		if err != nil {
			return fmt.Errorf("%d replicas: %w", n, err)
		}
		slices.Sort(took)
		at := func(share float64) float64 { return took[int(share*float64(len(took)-1))] }
		fmt.Printf("%d\t%.2f s\t%.2f s\t%.2f s\n", n, at(0.5), at(0.99), at(1))
	}
	return nil
}

func build(dir string) error {
	module, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "usher").Output()
	if err != nil {
		return fmt.Errorf("looking for the sources of usher: %w", err)
	}
	cmd := exec.Command("go", "build", "-o", filepath.Join(dir, "usher"), "./cmd/usher")
	cmd.Dir, cmd.Stderr = strings.TrimSpace(string(module)), os.Stderr
	return cmd.Run()
}

const rules = `socksmethod: none
client pass { from: 127.0.0.0/8 to: 0/0 }
socks pass { from: 127.0.0.0/8 to: 0/0 command: connect session.max: %d }
`

// run returns the seconds of each round.
func run(dir string, replicas, rounds int, ttl time.Duration) (took []float64, err error) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel() // ends all that was started
	url, err := startRedis(ctx)
	if err != nil {
		return nil, err
	}
	var files [2]string
	for i := range files {
		files[i] = filepath.Join(dir, fmt.Sprintf("%d.conf", i))
		if err := os.WriteFile(files[i], fmt.Appendf(nil, rules, i+1), 0o600); err != nil {
			return nil, err
		}
	}
	env := append(os.Environ(), "USHER_STORE="+url, "USHER_LEASE_TTL="+ttl.String())
	usher := filepath.Join(dir, "usher")
	if _, err := publish(usher, env, files[1]); err != nil {
		return nil, err
	}
	for range replicas {
		cmd := exec.CommandContext(ctx, usher, "serve")
		cmd.Env = append(slices.Clone(env), "USHER_CONFIG=store", "USHER_LISTEN=127.0.0.1:0", "USHER_ADMIN_LISTEN=off", "USHER_LOG_LEVEL=error")
		cmd.Stderr = os.Stderr
		if err := cmd.Start(); err != nil {
			return nil, err
		}
		defer cmd.Wait() //nolint:errcheck // it is killed
		defer cancel()
	}
	if err := follows(usher, env, files[1], replicas); err != nil {
		return nil, err
	}
	for i := range rounds {
		time.Sleep(rand.N(ttl / 10))
		r, err := publish(usher, env, files[i%2])
		if err != nil {
			return nil, err
		}
		if len(r.On) != replicas || !r.Published {
			return nil, fmt.Errorf("round %d: in force on %d replicas", i, len(r.On))
		}
		took = append(took, r.Seconds)
	}
	return took, nil
}

type result struct {
	Published bool
	Seconds   float64
	On        []struct{}
}

func publish(usher string, env []string, file string) (r result, err error) {
	cmd := exec.Command(usher, "apply", "--json", file)
	cmd.Env = env
	out, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return r, fmt.Errorf("%w: %s", err, exit.Stderr)
	}
	if err != nil {
		return r, err
	}
	return r, json.Unmarshal(out, &r)
}

// follows waits until all replicas follow.
func follows(usher string, env []string, file string, replicas int) error {
	for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		r, err := publish(usher, env, file) // it is in force already, so this only looks
		if err != nil {
			return err
		}
		if len(r.On) == replicas {
			return nil
		}
	}
	return errors.New("not all of them follow after two minutes")
}

func startRedis(ctx context.Context) (url string, err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	addr := l.Addr().String()
	l.Close()
	_, port, _ := net.SplitHostPort(addr)
	if err := exec.CommandContext(ctx, "redis-server", "--bind", "127.0.0.1", "--port", port, "--save", "", "--appendonly", "no").Start(); err != nil {
		return "", err
	}
	for range 500 {
		if c, err := net.Dial("tcp", addr); err == nil {
			return "redis://" + addr, c.Close()
		}
		time.Sleep(10 * time.Millisecond)
	}
	return "", fmt.Errorf("redis-server does not answer on %s", addr)
}
