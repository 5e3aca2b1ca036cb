package integration

import (
	"fmt"
	"path/filepath"
	"testing"

	"usher/deploy/need"
	"usher/store/redisstore/redistest"
)

// TestApplyUnderLoad publishes one generation after another while clients connect
// through HAProxy without pause. Each generation lets them reach another target. So
// each target counts the sessions of one generation, which never exceed its limit.
// Clients are refused only by the rules, and none is reset.
func TestApplyUnderLoad(t *testing.T) {
	const limit, generations = 2, 3
	redis := redistest.Start(t)
	free := startEcho(t)
	targets := make([]*witness, generations)
	for i := range targets {
		targets[i] = startWitness(t, newTruth(), "127.0.0.1")
	}
	dir := t.TempDir()
	publish := func(i int) {
		t.Helper()
		file := filepath.Join(dir, "sockd.conf")
		writeFile(t, file, fmt.Sprintf(`client pass { from: 0/0 to: 0/0 }
socks pass { from: 0/0 to: %s
 session.max: %d }
socks pass { from: 0/0 to: %s }
`, targets[i].endpoint.to(), limit, free.endpoint().to()))
		if code, said := verb(t, redis.URL(), "apply", "--wait", "60s", file); code != 0 {
			t.Fatalf("exit code %d\n%s", code, said)
		}
	}
	publish(0)
	socks, admin := need.Port(t), need.Port(t)
	var hosts []string
	var replicas []*replica
	for i := range 3 {
		hosts = append(hosts, fmt.Sprintf("127.0.1.%d", i+1))
		replicas = append(replicas, launchReplica(t, fmt.Sprintf("web%d", i+1), hosts[i], socks, admin, map[string]string{
			"USHER_CONFIG": "store", "USHER_STORE": redis.URL(), "USHER_LEASE_TTL": applyTTL, "USHER_STORE_WAIT": "20s",
			"USHER_REPLICA": fmt.Sprintf("web%d", i+1), "USHER_PROXY_PROTOCOL_FROM": balancerSource + "/32",
		}))
	}
	for _, r := range replicas {
		r.waitReady(t)
	}
	for _, r := range replicas {
		eventually(t, patience, func() string {
			if st := r.status(t); !st.Store.Joined || st.Store.Recovering {
				return r.name + " admits nothing yet"
			}
			return ""
		})
	}
	balancer := startBalancer(t, hosts, socks, admin)
	balancer.waitUp(t, len(replicas))

	var loads []*traffic
	for _, target := range targets {
		loads = append(loads, startTraffic(t, target, free.endpoint(), limit+2, balancer.addr))
	}
	for i := range targets {
		if i > 0 {
			publish(i)
		}
		for range 2 {
			loads[i].more()
		}
	}
	for i, l := range loads {
		l.judge(fmt.Sprintf("generation %d of %d by apply", i+1, generations), limit)
	}
}
