package control

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"usher/proxy/admin"
)

// The number in an answer of the admin listener may belong to any process here.
func TestControlSignalsOnlyUsher(t *testing.T) {
	t.Parallel()
	sleep := exec.CommandContext(t.Context(), "sleep", "600")
	if err := sleep.Start(); err != nil {
		t.Fatal(err)
	}
	var c Target
	var st admin.Status
	st.PID = sleep.Process.Pid
	if err := c.signal(st, syscall.SIGTERM); err == nil || !strings.Contains(err.Error(), "is not this usher here") {
		t.Error(err)
	}
	if !Running(sleep.Process.Pid) {
		t.Error("another program was ended")
	}
	c.PID = sleep.Process.Pid // whoever names it means it
	if err := c.signal(st, syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	if err := sleep.Wait(); err == nil {
		t.Error("the process that was named was not ended")
	}
}

// Where there is no /proc, a process that exists still counts as running.
func TestRunning(t *testing.T) {
	t.Parallel()
	sleep := exec.CommandContext(t.Context(), "sleep", "600")
	if err := sleep.Start(); err != nil {
		t.Fatal(err)
	}
	pid, without := sleep.Process.Pid, t.TempDir()
	if !running("/proc", pid) || !running(without, pid) {
		t.Error("a process that runs was not found")
	}
	if err := sleep.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(time.Minute); running("/proc", pid); time.Sleep(time.Millisecond) { // until it is a zombie
		if time.Now().After(end) {
			t.Fatal("a zombie counts as running")
		}
	}
	if err := sleep.Wait(); err == nil {
		t.Error("sleep was not killed")
	}
	if running("/proc", pid) || running(without, pid) {
		t.Error("a process that is gone counts as running")
	}
}

func TestReachable(t *testing.T) {
	for where, want := range map[string]string{
		"0.0.0.0:9090": "127.0.0.1:9090", ":9090": "127.0.0.1:9090", "[::]:9090": "[::1]:9090",
		"10.1.2.3:9": "10.1.2.3:9", "admin.test:80": "admin.test:80",
	} {
		if got := reachable(where); got != want {
			t.Errorf("%s: %s, want %s", where, got, want)
		}
	}
}

func TestInnerPIDs(t *testing.T) {
	if got := innerPIDs(os.Getpid()); !slices.Contains(got, os.Getpid()) {
		t.Errorf("the numbers of process %s are %v", strconv.Itoa(os.Getpid()), got)
	}
}

// A process of another machine is drained by its API, if there is a token: no signal
// could reach it.
func TestDrainElsewhere(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var asked []string
	drained := false
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if r.Method == http.MethodPost {
			asked = append(asked, r.URL.Path+" "+r.Header.Get("Authorization"))
			drained = r.URL.Path == "/api/v1/drain"
			fmt.Fprint(w, "{}")
			return
		}
		reason := ""
		if drained {
			reason = admin.Drained
		}
		fmt.Fprintf(w, `{"ready": %t, "reason": %q, "pid": 1, "upgrade": {}}`, !drained, reason)
	}))
	defer server.Close()
	where := Target{Admin: server.Listener.Addr().String(), Timeout: time.Minute}
	if _, err := where.Drain(t.Context(), false); err == nil || !strings.Contains(err.Error(), "USHER_ADMIN_TOKEN") {
		t.Error(err)
	}
	where.Token = func() (string, error) { return "secret", nil }
	if st, err := where.Drain(t.Context(), true); err != nil || st.Reason != admin.Drained {
		t.Error(st.Reason, err)
	}
	if st, err := where.Undrain(t.Context()); err != nil || !st.Ready {
		t.Error(st.Reason, err)
	}
	if want := []string{"/api/v1/drain Bearer secret", "/api/v1/undrain Bearer secret"}; !slices.Equal(asked, want) {
		t.Errorf("%q", asked)
	}
}
