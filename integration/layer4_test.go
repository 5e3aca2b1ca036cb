package integration

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"usher/deploy/need"
)

// TestLayer4UDP lays out the figure of Dante's page on layer 4 redundancy: a relay
// that sends no PROXY header carries TCP, clients send UDP to the replica itself, and
// direct TCP between clients and replicas is dropped.
func TestLayer4UDP(t *testing.T) {
	haproxy, ip, nft := need.Program(t, "haproxy"), need.Program(t, "ip"), need.Program(t, "nft")
	if os.Geteuid() != 0 {
		need.Missing(t, "root, for network namespaces")
	}
	do := func(program string, args ...string) {
		t.Helper()
		if out, err := exec.Command(program, args...).CombinedOutput(); err != nil {
			t.Fatalf("%s %s: %v\n%s", program, strings.Join(args, " "), err, out)
		}
	}
	const relayAddr, clientAddr, replicaAddr = "10.77.0.1", "10.77.0.2", "10.77.0.3"
	space := fmt.Sprintf("usher%d", os.Getpid())
	relay := space + "r"
	names := map[string]string{"c": clientAddr, "s": replicaAddr}
	for _, name := range []string{"r", "c", "s"} {
		do(ip, "netns", "add", space+name)
		t.Cleanup(func() { exec.Command(ip, "netns", "del", space+name).Run() }) //nolint:errcheck // the next run has other names
		do(ip, "-n", space+name, "link", "set", "lo", "up")
	}
	do(ip, "-n", relay, "link", "add", "br0", "type", "bridge")
	do(ip, "-n", relay, "addr", "add", relayAddr+"/24", "dev", "br0")
	do(ip, "-n", relay, "link", "set", "br0", "up")
	for name, addr := range names {
		do(ip, "-n", relay, "link", "add", "to"+name, "type", "veth", "peer", "name", "eth0", "netns", space+name)
		do(ip, "-n", relay, "link", "set", "to"+name, "master", "br0", "up")
		do(ip, "-n", space+name, "addr", "add", addr+"/24", "dev", "eth0")
		do(ip, "-n", space+name, "link", "set", "eth0", "up")
	}
	do(ip, "netns", "exec", space+"s", nft, "add table ip f; "+
		"add chain ip f i { type filter hook input priority 0; }; add chain ip f o { type filter hook output priority 0; }; "+
		"add rule ip f i ip saddr "+clientAddr+" meta l4proto tcp drop; add rule ip f o ip daddr "+clientAddr+" meta l4proto tcp drop")

	dir := t.TempDir()
	rules, cfg := filepath.Join(dir, "sockd.conf"), filepath.Join(dir, "haproxy.cfg")
	writeFile(t, rules, "socksmethod: none\nclient pass {\n from: 10.77.0.0/24 to: 0/0\n}\n"+
		"socks pass {\n from: 10.77.0.0/24 to: 0/0\n command: connect udpassociate udpreply\n}\n")
	writeFile(t, cfg, "defaults\n mode tcp\n timeout connect 2s\n timeout client 1m\n timeout server 1m\n"+
		"listen socks\n bind "+relayAddr+":1080\n server s "+replicaAddr+":1080\n")
	start(t, "usher", []string{"USHER_LISTEN=" + replicaAddr + ":1080", "USHER_ADMIN_LISTEN=off", "USHER_CONFIG=" + rules,
		"USHER_UDP_RELAY_FROM=" + relayAddr, "USHER_UDP_RELAY_CLIENTS=" + clientAddr}, ip, "netns", "exec", space+"s", usher, "serve")
	start(t, "haproxy", nil, ip, "netns", "exec", relay, haproxy, "-db", "-f", cfg)
	probe := func(server string, args ...string) (string, bool) {
		out, err := exec.Command(ip, append([]string{"netns", "exec", space + "c", usher, "probe", "--socks", net.JoinHostPort(server, "1080")}, args...)...).CombinedOutput()
		return string(out), err == nil
	}
	eventually(t, patience, func() string {
		if out, up := probe(relayAddr, "--target", relayAddr+":1080"); !up {
			return "TCP through the relay: " + out
		}
		return ""
	})
	if out, up := probe(relayAddr, "--udp", "--timeout", "10s"); !up {
		t.Errorf("UDP past the relay: %s", out)
	}
	if out, up := probe(replicaAddr, "--timeout", "500ms"); up || !strings.Contains(out, "no connection to "+replicaAddr) {
		t.Errorf("direct TCP is not dropped: %s", out)
	}
}
