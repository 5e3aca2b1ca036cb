package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"usher/store/redisstore/redistest"
)

// TestRelaydCrash: a crash of Go's runtime has exit code 2, which relayd would take
// for up. SIGQUIT makes the runtime end a process in this way.
func TestRelaydCrash(t *testing.T) {
	t.Parallel()
	for _, who := range []string{"the process that probes", "the process that relayd starts"} {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		cmd := exec.Command("usher", "probe", "--relayd", "--timeout=5m", "--socks="+ln.Addr().String())
		cmd.Env = append(os.Environ(), "GOTRACEBACK=single")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		conn, err := ln.Accept() // it probes
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		child := onlyChild(t, cmd.Process.Pid)
		if who == "the process that probes" {
			kill(t, child, syscall.SIGQUIT)
		} else {
			kill(t, cmd.Process.Pid, syscall.SIGQUIT)
			defer syscall.Kill(child, syscall.SIGKILL) //nolint:errcheck // it may have ended
		}
		err = cmd.Wait()
		if code := cmd.ProcessState.ExitCode(); code > 0 {
			t.Errorf("%s crashes: exit code %d, which is up: %v", who, code, err)
		}
	}
}

func kill(t *testing.T, pid int, sig syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(pid, sig); err != nil {
		t.Fatal(err)
	}
}

// onlyChild returns the one process that a process has started.
func onlyChild(t *testing.T, pid int) (child int) {
	t.Helper()
	tasks := fmt.Sprintf("/proc/%d/task", pid)
	redistest.Eventually(t, patience, "the process has one child", func() bool {
		threads, err := os.ReadDir(tasks)
		if err != nil {
			t.Fatal(err)
		}
		var all []string
		for _, thread := range threads {
			text, err := os.ReadFile(tasks + "/" + thread.Name() + "/children")
			if err == nil { // the thread may have ended
				all = append(all, strings.Fields(string(text))...)
			}
		}
		if len(all) != 1 {
			return false
		}
		child, err = strconv.Atoi(all[0])
		return err == nil
	})
	return child
}
