package integration

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	mobynet "github.com/moby/moby/api/types/network"
	"github.com/testcontainers/testcontainers-go"
	"github.com/testcontainers/testcontainers-go/log"
	tcnetwork "github.com/testcontainers/testcontainers-go/network"
	"github.com/testcontainers/testcontainers-go/wait"
)

// TestLimitsInContainers runs the scenarios one after the other in one world of
// containers: the shipped image and the shipped haproxy.cfg, on a network where each
// replica is a host.
func TestLimitsInContainers(t *testing.T) {
	needDocker(t, "redis:7-alpine", "haproxy:3.0-alpine", "busybox:1.36")
	w := newContainerWorld(t, 8*time.Second)
	for _, s := range scenarios {
		if s.direct {
			continue
		}
		if !t.Run(s.name, func(t *testing.T) {
			w.t = t
			s.run(t, w)
		}) {
			t.Fatal("the scenarios after a failed one would fail for its sake")
		}
	}
}

// newContainerWorld starts echo, Redis, three replicas and HAProxy.
func newContainerWorld(t *testing.T, ttl time.Duration) *world {
	t.Helper()
	label := map[string]string{"usher.test": testRun}
	net, err := tcnetwork.New(t.Context(), tcnetwork.WithLabels(label))
	if err != nil {
		t.Fatal(err)
	}
	testcontainers.CleanupNetwork(t, net)
	h := &containerHost{t: t, net: net, label: label}

	w := &world{
		t: t, ttl: ttl,
		limited: endpoint{"echo", 7}, free: endpoint{"echo", 8},
		ruleFile: filepath.Join(shared(t, "etc"), "sockd.conf"),
	}
	w.writeRules(standard(5)(w.limited, w.free))
	h.run("busybox:1.36", "echo", nil, testcontainers.WithCmd("sh", "-c",
		"nc -ll -p 8 -e cat & exec nc -ll -p 7 -e cat"))
	redis := h.run("redis:7-alpine", "redis", nil,
		testcontainers.WithCmd("redis-server", "--save", "", "--appendonly", "no"),
		testcontainers.WithWaitStrategy(wait.ForLog("Ready to accept connections")))
	w.store = &redisContainer{t, redis.id}

	w.replicas = make([]*replica, 3)
	var starting sync.WaitGroup
	for i := range w.replicas {
		starting.Go(func() { w.replicas[i] = h.replica(fmt.Sprintf("usher %d", i+1), w.ruleFile, ttl) })
	}
	starting.Wait()
	if t.Failed() {
		t.FailNow()
	}
	cfg, err := filepath.Abs("../deploy/compose/haproxy")
	if err != nil {
		t.Fatal(err)
	}
	front := h.run("haproxy:3.0-alpine", "haproxy", []string{cfg + ":/usr/local/etc/haproxy:ro"},
		testcontainers.WithExposedPorts("1080/tcp", "8404/tcp"), loopback("1080/tcp", "8404/tcp"))
	w.proxy = client{proxy: front.port("1080/tcp")}
	w.balancer = &balancer{stats: "http://" + front.port("8404/tcp") + "/metrics"}
	w.balancer.waitUp(t, len(w.replicas))
	w.waitReady()
	return w
}

// shared returns an empty directory that containers can read. The directories of
// TempDir cannot be read by other users.
func shared(t testing.TB, name string) string {
	dir := filepath.Join(t.TempDir(), name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// containerHost starts containers on one network.
type containerHost struct {
	t     *testing.T
	net   *testcontainers.DockerNetwork
	label map[string]string
}

// running is a container that runs.
type running struct {
	t  *testing.T
	c  testcontainers.Container
	id string
}

func (h *containerHost) run(image, alias string, binds []string, opts ...testcontainers.ContainerCustomizer) running {
	h.t.Helper()
	opts = append(opts,
		tcnetwork.WithNetwork([]string{alias}, h.net),
		testcontainers.WithLabels(h.label), testcontainers.WithLogger(log.TestLogger(h.t)),
		testcontainers.WithHostConfigModifier(func(c *container.HostConfig) { c.Binds = binds }))
	c, err := testcontainers.Run(h.t.Context(), image, opts...)
	testcontainers.CleanupContainer(h.t, c, testcontainers.StopTimeout(0))
	if err != nil {
		h.t.Errorf("starting %s: %v", image, err)
		h.t.FailNow()
	}
	r := running{h.t, c, c.GetContainerID()}
	h.t.Cleanup(func() { // before the container is removed
		if h.t.Failed() {
			said, _ := docker("logs", "--tail", "60", r.id)
			h.t.Logf("%s said:\n%s", alias, said)
		}
	})
	return r
}

// port returns the address at which this machine reaches a port of the container.
func (r running) port(name string) string {
	r.t.Helper()
	port, err := r.c.MappedPort(context.Background(), name)
	if err != nil {
		r.t.Fatal(err)
	}
	return "127.0.0.1:" + port.Port()
}

// loopback publishes ports on the loopback address only.
func loopback(ports ...string) testcontainers.CustomizeRequestOption {
	return testcontainers.WithHostConfigModifier(func(c *container.HostConfig) {
		c.PortBindings = mobynet.PortMap{}
		for _, p := range ports {
			c.PortBindings[mobynet.MustParsePort(p)] = []mobynet.PortBinding{{HostIP: netip.MustParseAddr("127.0.0.1")}}
		}
	})
}

func (h *containerHost) replica(name, ruleFile string, ttl time.Duration) *replica {
	h.t.Helper()
	c := h.run(testImage, "usher", []string{filepath.Dir(ruleFile) + ":/etc/usher:ro"},
		testcontainers.WithEnv(map[string]string{
			"USHER_LISTEN":              "0.0.0.0:1080",
			"USHER_ADMIN_LISTEN":        "0.0.0.0:9090",
			"USHER_CONFIG":              "/etc/usher/sockd.conf",
			"USHER_STORE":               "redis://redis:6379/0",
			"USHER_LEASE_TTL":           ttl.String(),
			"USHER_PROXY_PROTOCOL_FROM": "10.0.0.0/8,172.16.0.0/12,192.168.0.0/16",
			// HAProxy must notice the drain before this address vanishes.
			"USHER_DRAIN_GRACE":   "3s",
			"USHER_DRAIN_TIMEOUT": "0s",
			"USHER_LOG_FORMAT":    "json",
		}),
		testcontainers.WithExposedPorts("9090/tcp"), loopback("9090/tcp"),
		testcontainers.WithWaitStrategy(wait.ForHTTP("/readyz").WithPort("9090/tcp").WithStartupTimeout(time.Minute)))
	r := &replica{name: name, admin: "http://" + c.port("9090/tcp")}
	r.signal = func(s syscall.Signal) { mustDocker(h.t, "kill", "-s", strconv.Itoa(int(s)), c.id) }
	r.exits = func(within time.Duration, code int) {
		eventually(h.t, within, func() string {
			state := mustDocker(h.t, "inspect", "-f", "{{.State.Running}} {{.State.ExitCode}}", c.id)
			if want := fmt.Sprintf("false %d", code); state != want {
				return fmt.Sprintf("%s: running and exit code are %q, want %q", name, state, want)
			}
			return ""
		})
	}
	r.kill = func() {
		r.signal(syscall.SIGKILL)
		mustDocker(h.t, "wait", c.id)
	}
	return r
}

// redisContainer is a store that can be killed and started again.
type redisContainer struct {
	t  testing.TB
	id string
}

func (r *redisContainer) Kill()  { mustDocker(r.t, "kill", r.id) }
func (r *redisContainer) Start() { mustDocker(r.t, "start", r.id) }
