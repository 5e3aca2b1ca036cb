package integration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"usher/deploy/need"
	"usher/store/redisstore/redistest"
)

// manifest is what is read here of an object of Kubernetes.
type manifest struct {
	Kind       string
	Data       map[string]string // of a ConfigMap
	StringData map[string]string `yaml:"stringData"` // of a Secret
	Spec       struct {
		Template struct {
			Metadata struct{ Labels map[string]string }
			Spec     podSpec
		}
		Ingress []struct { // of a NetworkPolicy
			From  []podPeer
			Ports []podPort
		}
		Egress []struct {
			To    []podPeer
			Ports []podPort
		}
	}
}

// podPeer selects pods by the labels of their namespace and their own. Without a selector
// of namespaces, it is the namespace of the policy.
type podPeer struct {
	Namespaces *selector `yaml:"namespaceSelector"`
	Pods       *selector `yaml:"podSelector"`
	Block      *struct{} `yaml:"ipBlock"`
}

type podPort struct{ Port string } // a number, or its name in the pod

type selector struct {
	Labels map[string]string `yaml:"matchLabels"`
}

func (s *selector) matches(labels map[string]string) bool {
	for name, value := range s.Labels {
		if labels[name] != value {
			return false
		}
	}
	return true
}

type podSpec struct {
	ServiceLinks *bool `yaml:"enableServiceLinks"`
	Grace        int   `yaml:"terminationGracePeriodSeconds"`
	Volumes      []struct {
		Name      string
		ConfigMap *struct{} `yaml:"configMap"` // else it is the Secret
	}
	Containers []containerSpec
}

type containerSpec struct {
	Args  []string
	Ports []struct {
		Name   string
		Number int `yaml:"containerPort"`
	}
	Env []struct {
		Name, Value string
	}
	Lifecycle struct {
		PreStop struct{ Sleep struct{ Seconds int } } `yaml:"preStop"`
	}
	Startup   probeSpec `yaml:"startupProbe"`
	Readiness probeSpec `yaml:"readinessProbe"`
	Liveness  probeSpec `yaml:"livenessProbe"`
	Mounts    []struct {
		Name string
		Path string `yaml:"mountPath"`
	} `yaml:"volumeMounts"`
}

type probeSpec struct {
	HTTPGet struct{ Path, Port string } `yaml:"httpGet"`
}

// TestKubernetesFiles runs a replica as deploy/kubernetes says: its environment, its
// rules, its users, the password of its store. Only addresses are changed, as for
// other tests. Beside that it gets what Kubernetes sets for the Services of these
// files if nobody turns it off.
func TestKubernetesFiles(t *testing.T) {
	objects := readManifests(t, "../deploy/kubernetes")
	pod := objects["Deployment"].Spec.Template.Spec
	if pod.ServiceLinks == nil || *pod.ServiceLinks {
		t.Error("enableServiceLinks is not false")
	}
	c := pod.Containers[0]
	if len(c.Args) != 1 || c.Args[0] != "serve" {
		t.Fatalf("arguments %v, want serve", c.Args)
	}
	redis := redistest.Start(t)
	err := redis.Client().ConfigSet(context.Background(), "requirepass", strings.TrimSpace(objects["Secret"].StringData["store-password"])).Err()
	if err != nil {
		t.Fatal(err)
	}

	env := map[string]string{}
	for _, e := range c.Env {
		env[e.Name] = e.Value
	}
	ports := map[string]int{}
	for _, p := range c.Ports {
		ports[p.Name] = p.Number
	}
	for name, port := range map[string]string{"USHER_LISTEN": "socks", "USHER_ADMIN_LISTEN": "admin"} {
		if want := fmt.Sprintf(":%d", ports[port]); env[name] != want {
			t.Errorf("%s=%s, and the port %s is %s", name, env[name], port, want)
		}
		delete(env, name) // startReplica sets them
	}
	grace, drain := duration(t, env["USHER_DRAIN_GRACE"]), duration(t, env["USHER_DRAIN_TIMEOUT"])
	if all := time.Duration(c.Lifecycle.PreStop.Sleep.Seconds)*time.Second + grace + drain; time.Duration(pod.Grace)*time.Second <= all {
		t.Errorf("terminationGracePeriodSeconds is %d, and the way to the end takes %v", pod.Grace, all)
	}
	env["USHER_STORE"] = strings.Replace(env["USHER_STORE"], "redis:6379", redis.Addr, 1)
	for i, m := range c.Mounts {
		dir, content := t.TempDir(), objects["Secret"].StringData
		if pod.Volumes[i].Name != m.Name {
			t.Fatalf("volume %d is %s, and is mounted as %s", i, pod.Volumes[i].Name, m.Name)
		}
		if pod.Volumes[i].ConfigMap != nil {
			content = objects["ConfigMap"].Data
		}
		for name, text := range content {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		for name, value := range env {
			if rest, ok := strings.CutPrefix(value, m.Path+"/"); ok {
				env[name] = filepath.Join(dir, rest)
			}
		}
	}
	for name, value := range serviceLinks {
		env[name] = value
	}
	r := startReplica(t, "usher-0", "127.0.0.1", need.Port(t), need.Port(t), env)
	for _, p := range []probeSpec{c.Startup, c.Readiness, c.Liveness} {
		if code, body, err := r.get(p.HTTPGet.Path); p.HTTPGet.Port != "admin" || code != http.StatusOK {
			t.Errorf("probe %+v: %d %s %v", p, code, body, err)
		}
	}
	if said := r.proc.out.String(); strings.Contains(said, `"WARN"`) || strings.Contains(said, `"ERROR"`) {
		t.Error("there are warnings or errors in the log")
		t.Log(said)
	}
}

// The network policy lets Prometheus and the other replicas reach the admin listener, and
// nobody else. Without it, a replica knows of no other one.
func TestKubernetesNetworkPolicy(t *testing.T) {
	objects := readManifests(t, "../deploy/kubernetes")
	policy, pod := objects["NetworkPolicy"].Spec, objects["Deployment"].Spec.Template
	numbers := map[string]string{}
	for _, p := range pod.Spec.Containers[0].Ports {
		numbers[p.Name] = fmt.Sprint(p.Number)
	}
	reaches := func(peers []podPeer, ports []podPort, namespace string, labels map[string]string, port string) bool {
		return slices.ContainsFunc(ports, func(p podPort) bool { return p.Port == port || p.Port == numbers[port] }) &&
			slices.ContainsFunc(peers, func(p podPeer) bool {
				home := p.Namespaces == nil && namespace == ""
				return p.Block == nil && (home || p.Namespaces != nil && p.Namespaces.matches(map[string]string{"kubernetes.io/metadata.name": namespace})) &&
					(p.Pods == nil || p.Pods.matches(labels))
			})
	}
	own, client, other := pod.Metadata.Labels, map[string]string{"socks-client": "true"}, map[string]string{"app.kubernetes.io/name": "web"}
	for _, c := range []struct {
		what, namespace string // "" is that of Usher
		labels          map[string]string
		port            string
		in, out         bool
	}{
		{"another replica", "", own, "admin", true, true},
		{"another replica", "", own, "socks", false, false},
		{"a pod that pretends to be a replica", "elsewhere", own, "admin", false, false},
		{"Prometheus", "monitoring", other, "admin", true, false},
		{"a client", "", client, "admin", false, false},
		{"a client", "elsewhere", client, "admin", false, false},
		{"a client", "elsewhere", client, "socks", true, false},
		{"a pod", "", other, "admin", false, false},
	} {
		in, out := false, false
		for _, rule := range policy.Ingress {
			in = in || reaches(rule.From, rule.Ports, c.namespace, c.labels, c.port)
		}
		for _, rule := range policy.Egress {
			out = out || reaches(rule.To, rule.Ports, c.namespace, c.labels, c.port)
		}
		if in != c.in || out != c.out {
			t.Errorf("%s in namespace %q, port %s: may reach Usher %v, want %v; is reached by Usher %v, want %v", c.what, c.namespace, c.port, in, c.in, out, c.out)
		}
	}
}

// serviceLinks are what Kubernetes sets in each container for the Services of
// deploy/kubernetes, unless enableServiceLinks is false. A headless Service has none.
var serviceLinks = map[string]string{
	"USHER_SERVICE_HOST":        "10.0.0.10",
	"USHER_SERVICE_PORT":        "1080",
	"USHER_SERVICE_PORT_SOCKS":  "1080",
	"USHER_PORT":                "tcp://10.0.0.10:1080",
	"USHER_PORT_1080_TCP":       "tcp://10.0.0.10:1080",
	"USHER_PORT_1080_TCP_PROTO": "tcp",
	"USHER_PORT_1080_TCP_PORT":  "1080",
	"USHER_PORT_1080_TCP_ADDR":  "10.0.0.10",
}

// readManifests returns the objects of the files in dir by their kind. Of two of a
// kind it is the last one.
func readManifests(t *testing.T, dir string) map[string]manifest {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.yaml"))
	if err != nil || len(files) < 7 {
		t.Fatalf("files %v, %v", files, err)
	}
	objects := map[string]manifest{}
	for _, file := range files {
		decoder := yaml.NewDecoder(bytes.NewReader([]byte(readFile(t, file))))
		for {
			var m manifest
			err := decoder.Decode(&m)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			objects[m.Kind] = m
		}
	}
	return objects
}

func duration(t *testing.T, text string) time.Duration {
	t.Helper()
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatal(err)
	}
	return d
}
