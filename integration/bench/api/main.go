// Command api measures how long the answers of the admin listener take, and how large
// they are, in a cluster with many sessions and rules.
//
//	go -C integration run ./bench/api -sessions 10000 -rules 1000 -replicas 3 -times 20
//
// It builds usher, and starts Redis and replicas on loopback. Each rule has a limit and a
// target of its own, and the same share of the sessions.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

var (
	sessions = flag.Int("sessions", 10_000, "sessions that are held")
	rules    = flag.Int("rules", 1000, "rules with a limit, 1 to 60000")
	replicas = flag.Int("replicas", 3, "replicas, which share the sessions")
	times    = flag.Int("times", 20, "how often each answer is asked for")
	target   = flag.String("target", "", "is set by the command for the process that has the targets")
)

// patience bounds how long the cluster may take to start.
const patience = 2 * time.Minute

func main() {
	flag.Parse()
	run := measure
	if *target != "" {
		run = serveTargets
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "api:", err)
		os.Exit(1)
	}
}

// serveTargets accepts connections until standard input ends. They are in a process of
// their own because one process may not open as many descriptors.
func serveTargets() error {
	ln, err := net.Listen("tcp", *target)
	if err != nil {
		return err
	}
	go func() {
		held := map[net.Conn]struct{}{} // not closed by the garbage collector
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			held[c] = struct{}{}
		}
	}()
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// world is what runs while the answers are measured.
type world struct {
	dir     string
	stops   []func()
	port    string // of the targets
	redis   string
	socks   []string
	admin   []string
	clients []net.Conn
}

func measure() error {
	dir, err := os.MkdirTemp("", "api")
	if err != nil {
		return err
	}
	w := &world{dir: dir}
	defer w.end()
	for _, step := range []func() error{w.startTargets, w.startRedis, w.startReplicas, w.hold} {
		if err := step(); err != nil {
			return err
		}
	}
	return w.ask()
}

func (w *world) end() {
	for _, c := range w.clients {
		c.Close()
	}
	for _, stop := range slices.Backward(w.stops) {
		stop()
	}
	os.RemoveAll(w.dir)
}

// start starts a program, which end stops.
func (w *world) start(cmd *exec.Cmd) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return err
	}
	w.stops = append(w.stops, func() {
		cmd.Process.Kill() //nolint:errcheck // it may have ended
		cmd.Wait()         //nolint:errcheck // it was killed
	})
	return nil
}

// free returns an address that nobody listens at.
func free() (string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer ln.Close()
	return ln.Addr().String(), nil
}

func (w *world) startTargets() error {
	at, err := free()
	if err != nil {
		return err
	}
	_, w.port, _ = net.SplitHostPort(at)
	cmd := exec.Command(os.Args[0], "-target", "0.0.0.0:"+w.port)
	if _, err := cmd.StdinPipe(); err != nil {
		return err
	}
	return w.start(cmd)
}

func (w *world) startRedis() (err error) {
	if w.redis, err = free(); err != nil {
		return err
	}
	host, port, _ := net.SplitHostPort(w.redis)
	return w.start(exec.Command("redis-server", "--bind", host, "--port", port, "--save", "", "--appendonly", "no", "--dir", w.dir))
}

// address returns the address of the target of a rule.
func address(rule int) string { return fmt.Sprintf("127.1.%d.%d", rule/250, 1+rule%250) }

func (w *world) startReplicas() error {
	binary := filepath.Join(w.dir, "usher")
	build := exec.Command("go", "build", "-o", binary, "./cmd/usher")
	build.Dir = ".." // of the module integration
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("building usher: %w\n%s", err, out)
	}
	var text strings.Builder
	text.WriteString("client pass { from: 0/0 to: 0/0 }\n")
	for i := range *rules {
		fmt.Fprintf(&text, "socks pass { rule.name: rule-%d from: 0/0 to: %s/32 session.max: %d }\n", i, address(i), max(10, 2**sessions / *rules))
	}
	file := filepath.Join(w.dir, "sockd.conf")
	if err := os.WriteFile(file, []byte(text.String()), 0o600); err != nil {
		return err
	}
	for i := range *replicas {
		socks, err := free()
		if err != nil {
			return err
		}
		admin, err := free()
		if err != nil {
			return err
		}
		w.socks, w.admin = append(w.socks, socks), append(w.admin, admin)
		cmd := exec.Command(binary)
		cmd.Env = append(os.Environ(), "USHER_LISTEN="+socks, "USHER_ADMIN_LISTEN="+admin, "USHER_CONFIG="+file,
			"USHER_STORE=redis://"+w.redis+"/0", fmt.Sprintf("USHER_REPLICA=web%d", i+1), "USHER_LOG_LEVEL=error", "USHER_MAX_NEGOTIATING=4096")
		if err := w.start(cmd); err != nil {
			return err
		}
	}
	return w.await("/readyz", `"ready": true`)
}

// await waits until each replica says so at path.
func (w *world) await(path, part string) error {
	end := time.Now().Add(patience)
	for _, at := range w.admin {
		for {
			body, err := get("http://"+at+path, "")
			if err == nil && strings.Contains(string(body), part) {
				break
			}
			if time.Now().After(end) {
				return fmt.Errorf("%s%s does not say %s: %s %w", at, path, part, body, err)
			}
			time.Sleep(50 * time.Millisecond)
		}
	}
	return nil
}

// hold opens the sessions.
func (w *world) hold() error {
	port, err := net.LookupPort("tcp", w.port)
	if err != nil {
		return err
	}
	for i := range *sessions {
		c, err := net.DialTimeout("tcp", w.socks[i%len(w.socks)], patience)
		if err != nil {
			return err
		}
		w.clients = append(w.clients, c)
		ip := net.ParseIP(address(i % *rules)).To4()
		request := append([]byte{5, 1, 0, 5, 1, 0, 1}, ip...)
		if _, err := c.Write(append(request, byte(port>>8), byte(port))); err != nil {
			return err
		}
		reply := make([]byte, 12)
		if _, err := io.ReadFull(c, reply); err != nil || reply[3] != 0 {
			return errors.Join(fmt.Errorf("session %d: reply %d", i, reply[3]), err)
		}
	}
	return w.await("/api/v1/sessions?limit=1", fmt.Sprintf(`"total":%d`, *sessions))
}

// get returns the body of an answer.
func get(url, accept string) ([]byte, error) {
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	if accept != "" {
		req.Header.Set("Accept", accept)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %d", resp.StatusCode)
	}
	return body, err
}

// ask measures each answer, and prints the table.
func (w *world) ask() error {
	fmt.Printf("%d sessions, %d rules with a limit, %d replicas; each answer %d times\n\n", *sessions, *rules, *replicas, *times)
	fmt.Println("| answer | median | longest | size | without a replica |")
	fmt.Println("|---|---|---|---|---|")
	for _, q := range []struct{ path, accept string }{
		{"/metrics", ""}, {"/status", ""}, {"/api/v1/cluster", ""}, {"/api/v1/rules", ""}, {"/api/v1/limits", ""},
		{"/api/v1/sessions", ""}, {"/api/v1/sessions?limit=1000&sort=bytes", ""}, {"/api/v1/sessions?offset=9000&limit=1000", ""},
		{"/api/v1/sessions?search=rule-77", ""}, {"/api/v1/refusals", ""}, {"/api/v1/sessions?local=1", ""}, {"/", "text/html"},
	} {
		var took []time.Duration
		size, incomplete := 0, 0
		for range *times {
			began := time.Now()
			body, err := get("http://"+w.admin[0]+q.path, q.accept)
			if err != nil {
				return fmt.Errorf("%s: %w", q.path, err)
			}
			took, size = append(took, time.Since(began)), len(body)
			if strings.Contains(string(body), `"missing":[{`) {
				incomplete++
			}
		}
		slices.Sort(took)
		fmt.Printf("| `%s` | %.1f ms | %.1f ms | %d kB | %d |\n", q.path, ms(took[len(took)/2]), ms(took[len(took)-1]), (size+999)/1000, incomplete)
	}
	return nil
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
