package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"usher/cmd/usher/internal/publish"
	"usher/deploy/need"
	"usher/store/redisstore/redistest"
)

// cluster is a Redis and replicas that follow its published rules.
type cluster struct {
	t      *testing.T
	server *redistest.Server
	dir    string
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	return &cluster{t: t, server: redistest.Start(t), dir: t.TempDir()}
}

// env is the environment of replicas and verbs. With a lease of this length, requests
// may take half a second on a busy machine. Replicas learn of news at the same
// interval.
func (c *cluster) env(more ...string) []string {
	return append([]string{"USHER_STORE=" + c.server.URL(), "USHER_LEASE_TTL=5s"}, more...)
}

// replica starts a replica that follows; it may have to wait for rules.
func (c *cluster) replica(name string, more ...string) *process {
	c.t.Helper()
	return launchOnly(c.t, exec.Command("usher"), c.env(append([]string{"USHER_CONFIG=store", "USHER_REPLICA=" + name}, more...)...)...)
}

// serving waits until a replica serves, the n-th admin listener of its process open.
func (p *process) serving(n int) *process {
	p.t.Helper()
	p.socks = p.logged("listening for SOCKS clients")["address"].(string)
	p.admin = p.loggedTimes("admin listener open", n)["address"].(string)
	return p
}

// verb runs a verb and expects its exit code.
func (c *cluster) verb(code int, env []string, args ...string) (stdout, stderr string) {
	c.t.Helper()
	cmd := exec.Command("usher", args...)
	cmd.Env = append(append(os.Environ(), c.env()...), env...)
	var out, complaints bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaints
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		c.t.Fatal(err)
	}
	if got := cmd.ProcessState.ExitCode(); got != code {
		c.t.Fatalf("usher %q: exit code %d, want %d\n%s\n%s", args, got, code, out.String(), complaints.String())
	}
	return out.String(), complaints.String()
}

func (c *cluster) file(name, text string) string {
	c.t.Helper()
	return write(c.t, filepath.Join(c.dir, name), text)
}

// requirePart fails unless text contains all parts.
func requirePart(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Errorf("this lacks %q:\n%s", part, text)
		}
	}
}

// rulesFor are rules that can be told apart by their limit.
func rulesFor(limit int) string {
	return fmt.Sprintf("socksmethod: none\nclient pass { from: 127.0.0.0/8 to: 0/0 }\nsocks pass { from: 127.0.0.0/8 to: 0/0\n command: connect session.max: %d }\n", limit)
}

// From an empty store to a rollback, on three replicas.
func TestApply(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	one, two := c.file("one.conf", rulesFor(10)), c.file("two.conf", rulesFor(20))
	var replicas []*process
	for i := range 3 {
		replicas = append(replicas, c.replica(fmt.Sprintf("web%d", i)))
	}
	for _, p := range replicas {
		p.admin = p.logged("admin listener open")["address"].(string)
		p.eventually("/readyz", "nothing is published for the cluster default; publish rules with usher apply FILE")
		if code, body := p.get("/api/v1/cluster"); code != 503 || !strings.Contains(body, "no rules yet") {
			t.Errorf("the API answers %d %s without rules", code, body)
		}
		if code, _ := p.get("/readyz"); code != 503 {
			t.Error("ready without rules:", code)
		}
	}
	out, _ := c.verb(0, nil, "apply", "--dry-run", one)
	requirePart(t, out, "+    session.max: 10", "nothing is published (--dry-run)")
	out, progress := c.verb(0, nil, "apply", "--message", "the first", one)
	requirePart(t, out, "generation 1 is in force on 3 replicas")
	requirePart(t, progress, "in force on 3 of 3 replicas")
	for _, p := range replicas {
		p.serving(2)
		p.eventually("/readyz", `"ready": true`)
	}
	out, _ = c.verb(0, nil, "apply", two)
	requirePart(t, out, "-    session.max: 10", "+    session.max: 20", "generation 2 is in force on 3 replicas")
	for _, p := range replicas { // apply has returned, so all are on it
		_, status := p.get("/status")
		requirePart(t, status, `"file": "generation 2"`, `"generation": "g2-`, `"max": 20`)
		p.eventually("/metrics", "usher_config_published_generation 2\n")
		p.eventually("/metrics", "usher_config_generation 2\n")
	}
	client, _ := connect(t, replicas[0], webServer(t))
	out, _ = c.verb(0, nil, "apply", two)
	requirePart(t, out, "nothing changes", "generation 2 is in force on 3 replicas")
	out, _ = c.verb(0, nil, "rollback")
	requirePart(t, out, "+    session.max: 10", "generation 3 is in force on 3 replicas")
	redistest.Eventually(t, patience, "the list has the session of generation 2", func() bool {
		out, _ := c.verb(0, nil, "generations", "--json")
		var list publish.List
		if err := json.Unmarshal([]byte(out), &list); err != nil || len(list.Generations) != 3 || len(list.Replicas) != 3 || len(list.Silent) != 0 {
			t.Fatalf("%v\n%s", err, out)
		}
		newest, second, first := list.Generations[0], list.Generations[1], list.Generations[2]
		if !newest.Newest || newest.Replicas != 3 || newest.Message != "rollback to generation 1" || newest.Digest != first.Digest || second.Replicas != 0 || first.Message != "the first" {
			t.Fatalf("%+v", list)
		}
		return second.Sessions == 1 && newest.Sessions == 0
	})
	client.Close()
	out, _ = c.verb(0, nil, "generations")
	requirePart(t, out, "the first", "web0", "follows")
	out, _ = c.verb(0, nil, "generations", "--text")
	if out != rulesFor(10) {
		t.Errorf("the text in force is %q", out)
	}
	_, complaint := c.verb(1, nil, "rollback", "9")
	requirePart(t, complaint, "generation 9 is not kept")
	_, complaint = c.verb(1, nil, "apply", c.file("bad.conf", "socks pass { frm: 0/0 }"))
	requirePart(t, complaint, "bad.conf:1:14")
	replicas[0].signal(syscall.SIGTERM)
	if code := replicas[0].exit(); code != 0 {
		t.Error("exit code", code)
	}
	out, _ = c.verb(0, nil, "apply", one)
	requirePart(t, out, "on 2 replicas") // nobody waits for one that has left
}

// A replica that cannot load the rules keeps the old ones and says so everywhere.
func TestApplyThatAReplicaCannotTake(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	users := c.file("users", "monica:$2y$04$QbKxhTAZCPe9lRoBiVWrzOnr5dtYa0i.d0ocpBbSPmDTiOvtJ1zOS\n")
	c.verb(0, nil, "apply", c.file("one.conf", rulesFor(10)))
	able, lacking := c.replica("able", "USHER_USERS_FILE="+users).serving(1), c.replica("lacking").serving(1)
	named := c.file("named.conf", strings.Replace(rulesFor(20), "socksmethod: none", "socksmethod: username none", 1)+
		"socks block { from: 0/0 to: 0/0 user: monica }\n")
	out, complaint := c.verb(1, []string{"USHER_USERS_FILE=" + users}, "apply", named)
	requirePart(t, complaint, "generation 2: in force on 1 of 2 replicas, refused by lacking", "lacking keeps generation 1: generation 2:5:", "there is no users file")
	if strings.Contains(out, "is in force on") {
		t.Error(out)
	}
	requirePart(t, lacking.logged("published rules refused, keeping the old ones")["error"].(string), "there is no users file")
	lacking.eventually("/status", `"refused": 2`)
	_, status := lacking.get("/status")
	requirePart(t, status, `"file": "generation 1"`, `"reload_ok": false`, "there is no users file")
	lacking.eventually("/metrics", "usher_config_published_refused 2\n")
	lacking.eventually("/metrics", "usher_config_last_reload_successful 0\n")
	able.eventually("/status", `"file": "generation 2"`)
	out, _ = c.verb(0, nil, "generations")
	requirePart(t, out, "refuses generation 2")
	shown, err := exec.Command("usher", "status", "--admin", lacking.admin).Output()
	if err != nil {
		t.Fatal(err)
	}
	requirePart(t, string(shown), "GENERATION 2 REFUSED", "there is no users file")

	out, _ = c.verb(0, nil, "rollback")
	requirePart(t, out, "generation 3 is in force on 2 replicas")
	lacking.eventually("/metrics", "usher_config_published_refused 0\n")
	lacking.eventually("/metrics", "usher_config_last_reload_successful 1\n")

	_, complaint = c.verb(1, nil, "apply", c.file("interface.conf", "external: nosuch9\n"+rulesFor(30)))
	requirePart(t, complaint, "refused by able, lacking", `lacking keeps generation 3: generation 4:1:11: this machine has no interface "nosuch9"`)
}

// A replica starts with its cache while the store is away, and follows when it is back.
func TestStartFromCache(t *testing.T) {
	need.Seconds(t)
	t.Parallel()
	c := newCluster(t)
	cache := filepath.Join(c.dir, "cache")
	c.verb(0, nil, "apply", c.file("one.conf", rulesFor(10)))
	p := c.replica("web", "USHER_CONFIG_CACHE="+cache).serving(1)
	c.verb(0, nil, "apply", c.file("two.conf", rulesFor(20)))
	p.signal(syscall.SIGTERM)
	p.exit()
	c.server.Kill()
	p = c.replica("web", "USHER_CONFIG_CACHE="+cache).serving(1)
	p.logged("starting with cached rules")
	p.eventually("/status", `"file": "generation 2"`)
	c.server.Start() // without data: the replica publishes its rules again
	p.logged("the store has older rules than this replica, which publishes its own again")
	out, _ := c.verb(0, nil, "generations", "--text")
	if out != rulesFor(20) {
		t.Errorf("restored: %q", out)
	}
	out, _ = c.verb(0, nil, "apply", c.file("three.conf", rulesFor(30)))
	requirePart(t, out, "generation 3 is in force on 1 replica")
	p.eventually("/status", `"max": 30`)
}

// If several publish at the same time, each learns whether its rules were published.
func TestApplyAtTheSameTime(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.verb(0, nil, "apply", c.file("0.conf", rulesFor(1)))
	p := c.replica("web").serving(1)
	const n = 4
	var wg sync.WaitGroup
	var mu sync.Mutex
	won := 0
	for i := range n {
		file := c.file(fmt.Sprintf("%d.conf", i+1), rulesFor(i+2))
		wg.Go(func() {
			cmd := exec.Command("usher", "apply", "--json", file)
			cmd.Env = append(os.Environ(), c.env()...)
			var out, complaints bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &complaints
			err := cmd.Run()
			var result publish.Result
			if out.Len() > 0 {
				if err := json.Unmarshal(out.Bytes(), &result); err != nil {
					t.Error(err)
				}
			}
			mu.Lock()
			defer mu.Unlock()
			if result.Published {
				won++
			}
			switch {
			case err == nil && result.Done && result.Published && len(result.On) == 1:
			case err != nil && strings.Contains(complaints.String(), "was published meanwhile"):
			default:
				t.Errorf("%v: %s%s", err, out.String(), complaints.String())
			}
		})
	}
	wg.Wait()
	out, _ := c.verb(0, nil, "generations", "--json")
	var list publish.List
	if err := json.Unmarshal([]byte(out), &list); err != nil || won == 0 || len(list.Generations) != 1+won {
		t.Errorf("%d have published, and there are %d generations: %v", won, len(list.Generations), err)
	}
	p.eventually("/status", fmt.Sprintf(`"file": "generation %d"`, 1+won))
}

// Replicas accept only signed rules, at their start and later.
func TestApplySigned(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	key, other := filepath.Join(c.dir, "key"), filepath.Join(c.dir, "other")
	for _, name := range []string{key, other} {
		out, _ := c.verb(0, nil, "keygen", name)
		requirePart(t, out, "public key: "+name+".pub")
		if info, err := os.Stat(name); err != nil || info.Mode().Perm() != 0o600 {
			t.Error(info, err)
		}
	}
	c.verb(1, nil, "keygen", key) // it overwrites nothing
	one, two := c.file("one.conf", rulesFor(10)), c.file("two.conf", rulesFor(20))
	c.verb(0, nil, "apply", two) // not signed
	p := c.replica("web", "USHER_CONFIG_KEY="+key+".pub")
	p.admin = p.logged("admin listener open")["address"].(string)
	p.eventually("/readyz", "the published ones are refused: it is not signed")
	_, complaint := c.verb(1, nil, "apply", "--key", other, one)
	requirePart(t, complaint, "web keeps generation 0: its signature does not match")
	c.verb(0, nil, "apply", "--key", key, one)
	p.serving(2)
	_, complaint = c.verb(1, nil, "apply", two)
	requirePart(t, complaint, "generation 3 is signed", "--key")
	_, complaint = c.verb(1, nil, "apply", "--key", other, two)
	requirePart(t, complaint, "web keeps generation 3: its signature does not match")
	_, status := p.get("/status")
	requirePart(t, status, `"file": "generation 3"`)
	out, _ := c.verb(0, nil, "rollback", "--key", key, "1") // signed anew
	requirePart(t, out, "generation 5 is in force on 1 replica")
	_, complaint = c.verb(2, []string{"USHER_CONFIG=store", "USHER_CONFIG_KEY=" + key}, "serve")
	requirePart(t, complaint, "private key")
	_, complaint = c.verb(2, nil, "apply", "--key", key, "--wait=-1s", two)
	requirePart(t, complaint, "--wait must not be negative")
}

// Replicas with their own files and replicas that follow warn of each other.
func TestMixOfFilesAndPublishedRules(t *testing.T) {
	need.Seconds(t)
	t.Parallel()
	c := newCluster(t)
	one := c.file("one.conf", rulesFor(10))
	c.verb(0, nil, "apply", one)
	own := launch(t, c.env("USHER_CONFIG="+one, "USHER_LEASE_TTL=2s")...) // replicas look for others every three TTL
	follows := c.replica("web", "USHER_LEASE_TTL=2s").serving(1)
	own.logged("rules are published for this cluster, and this replica has a rule file of its own")
	follows.logged("members of the cluster do not follow the published rules")
	_, complaint := c.verb(0, nil, "apply", c.file("two.conf", rulesFor(20)))
	requirePart(t, complaint, "warning: members of the cluster do not follow the store")
	follows.eventually("/metrics", "usher_config_replicas_not_following 1\n")
	if err := os.WriteFile(one, []byte(rulesFor(30)), 0o600); err != nil {
		t.Fatal(err)
	}
	own.signal(syscall.SIGHUP)
	own.eventually("/status", `"max": 30`)
}

// A replica that existed when apply began and no longer reports may serve the old
// rules: apply names it and fails. When it is back, it takes the new rules.
func TestApplyNamesAReplicaThatVanished(t *testing.T) {
	need.Seconds(t)
	t.Parallel()
	c := newCluster(t)
	c.verb(0, nil, "apply", c.file("one.conf", rulesFor(10)))
	c.replica("stays").serving(1)
	paused := c.replica("paused").serving(1)
	paused.signal(syscall.SIGSTOP)
	defer paused.signal(syscall.SIGCONT)
	out, complaint := c.verb(1, nil, "apply", "--wait", "60s", "--json", c.file("two.conf", rulesFor(20)))
	requirePart(t, complaint, "generation 2: in force on 1 of 2 replicas, waiting for paused", "generation 2: in force on 1 of 2 replicas, gone: paused",
		"paused is gone: its lease ended before it took generation 2. If it still runs, it uses generation 1 for rules without a limit")
	var result publish.Result
	if err := json.Unmarshal([]byte(out), &result); err != nil || result.Done || !result.Published || len(result.On) != 1 || len(result.Gone) != 1 || result.Gone[0].Name != "paused" {
		t.Errorf("%+v, %v", result, err)
	}
	out, _ = c.verb(0, nil, "apply", c.file("two.conf", rulesFor(20))) // of those that reach the store
	requirePart(t, out, "nothing changes", "generation 2 is in force on 1 replica\n")
	paused.signal(syscall.SIGCONT)
	paused.eventually("/status", `"file": "generation 2"`)
	out, _ = c.verb(0, nil, "apply", c.file("two.conf", rulesFor(20)))
	requirePart(t, out, "generation 2 is in force on 2 replicas\n")
}

// An unreadable generation, old or newest, hides no other one, and newer rules can be
// published.
func TestUnreadableGeneration(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	files := []string{c.file("one.conf", rulesFor(10)), c.file("two.conf", rulesFor(20)), c.file("three.conf", rulesFor(30))}
	for _, file := range files {
		c.verb(0, nil, "apply", file)
	}
	overwrite := func(key, field, value string) {
		t.Helper()
		if err := c.server.Client().HSet(t.Context(), "usher:{default:0}:"+key, field, value).Err(); err != nil {
			t.Fatal(err)
		}
	}
	p := c.replica("web").serving(1)
	overwrite("g", "2", "x")
	overwrite("x", "1", rulesFor(11))
	out, _ := c.verb(0, nil, "generations")
	requirePart(t, out, "unreadable: invalid character 'x'", "web")
	_, complaint := c.verb(1, nil, "rollback")
	requirePart(t, complaint, "generation 2 cannot be published again", "usher generations lists the others")
	_, complaint = c.verb(1, nil, "rollback", "1")
	requirePart(t, complaint, "generation 1 cannot be published again: its text is not the one that was published")
	out, _ = c.verb(0, nil, "apply", files[0])
	requirePart(t, out, "-    session.max: 30", "+    session.max: 10", "generation 4 is in force on 1 replica\n")

	overwrite("g", "4", "{")
	out, _ = c.verb(0, nil, "apply", files[1])
	requirePart(t, out, "generation 4, which cannot be read", "+    session.max: 20", "generation 5 is in force on 1 replica\n")
	p.eventually("/status", `"max": 20`)
	out, _ = c.verb(0, nil, "rollback", "3")
	requirePart(t, out, "generation 6 is in force on 1 replica\n")

	overwrite("g", "n", "x") // a replica publishes its generation again
	redistest.Eventually(t, patience, "the newest number is there again", func() bool {
		n, err := c.server.Client().HGet(t.Context(), "usher:{default:0}:g", "n").Result()
		return err == nil && n == "6"
	})
	c.verb(0, nil, "rollback", "5")
	p.signal(syscall.SIGTERM)
	p.exit()
	overwrite("g", "n", "x")
	_, complaint = c.verb(1, nil, "generations")
	requirePart(t, complaint, `the newest number is "x"`)
}
