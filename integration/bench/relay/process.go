package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Users log in with one password, and a hash of it that Usher and the system
// both know: crypt(3), SHA-512.
const (
	firstLogins = 500
	password    = "secret"
	hash        = "$6$relaybench$VJW4T5ti8REYXZbTEFFk/XUsvx29iQjsj2tO9mI7ln/VWM4Rjcl9smSy0RPsjmVXCvtHxeXazJc/RQjdgajBr1"
)

// user is one of those who log in: 0 again and again, up to firstLogins once.
func user(i int) string { return fmt.Sprintf("user%d", i) }

// writeUsers writes what the proxies know of users.
func writeUsers(dir string) error {
	var users, shadow, passwd strings.Builder
	passwd.WriteString("root:x:0:0::/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n")
	for i := range firstLogins + 1 {
		fmt.Fprintf(&users, "%s:%s\n", user(i), hash)
		fmt.Fprintf(&shadow, "%s:%s:19000:0:99999:7:::\n", user(i), hash)
		fmt.Fprintf(&passwd, "%s:x:%d:%d::/:/bin/sh\n", user(i), 2000+i, 2000+i)
	}
	return errors.Join(
		os.WriteFile(filepath.Join(dir, "users"), []byte(users.String()), 0o600),
		os.WriteFile(filepath.Join(dir, "shadow"), []byte(shadow.String()), 0o600),
		os.WriteFile(filepath.Join(dir, "passwd"), []byte(passwd.String()), 0o644),
	)
}

// process is a peer that runs, with its children.
type process struct {
	cmd   *exec.Cmd // nil: there is none
	addr  string
	plain bool // it forwards to the target, and speaks no SOCKS
}

// start runs a peer and waits until it listens. dir has the usher binary.
func start(by *peer, dir string, t *target) (*process, error) {
	if by.start == nil {
		return &process{addr: t.addr.String(), plain: true}, nil
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	addr := ln.Addr().(*net.TCPAddr)
	if err := ln.Close(); err != nil {
		return nil, err
	}
	p := &process{addr: addr.String(), plain: by.plain}
	if p.cmd, err = by.start(dir, addr, t); err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		conn, err := net.Dial("tcp", p.addr)
		if err == nil {
			return p, conn.Close()
		}
		if time.Now().After(end) {
			p.stop()
			return nil, fmt.Errorf("%s does not listen: %w", by.name, err)
		}
	}
}

func (p *process) stop() {
	if p.cmd == nil {
		return
	}
	pids, _ := tree(p.cmd.Process.Pid) // the pattern is well-formed
	for _, pid := range pids {
		_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended
	}
	_ = p.cmd.Wait() // it was killed
}

// usage is what a proxy and its children have used, and hold.
type usage struct {
	cpu time.Duration // user and system, of those too that have ended
	pss int           // KiB; proportional, so that shared pages count once
	fds int
}

// usage reads /proc, of which processes may vanish meanwhile.
func (p *process) usage() (usage, error) {
	var sum usage
	if p.cmd == nil {
		return sum, nil
	}
	pids, err := tree(p.cmd.Process.Pid)
	for _, pid := range pids {
		one, e := usageOf(pid)
		if errors.Is(e, fs.ErrNotExist) || errors.Is(e, syscall.ESRCH) {
			continue
		}
		err = errors.Join(err, e)
		sum.cpu += one.cpu
		sum.pss += one.pss
		sum.fds += one.fds
	}
	return sum, err
}

// tree returns a process and all that descend from it.
func tree(root int) ([]int, error) {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	children := map[int][]int{}
	for _, name := range stats {
		fields, err := statFields(name)
		if err != nil {
			continue // it has ended
		}
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(name)))
		parent, _ := strconv.Atoi(fields[1])
		children[parent] = append(children[parent], pid)
	}
	pids := []int{root}
	for i := 0; i < len(pids); i++ {
		pids = append(pids, children[pids[i]]...)
	}
	return pids, err
}

// statFields returns what follows the name in a stat file: proc(5), field 3 on.
func statFields(name string) ([]string, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	if len(fields) < 15 {
		return nil, fmt.Errorf("%s: %q", name, text)
	}
	return fields, nil
}

// ticks is the unit of times in stat files, the same on all of Linux.
const tick = time.Second / 100

func usageOf(pid int) (usage, error) {
	dir := fmt.Sprintf("/proc/%d/", pid)
	fields, err := statFields(dir + "stat")
	if err != nil {
		return usage{}, err
	}
	var u usage
	for _, field := range fields[11:15] { // utime, stime, and those of children that were waited for
		n, err := strconv.Atoi(field)
		if err != nil {
			return usage{}, err
		}
		u.cpu += time.Duration(n) * tick
	}
	fds, err := os.ReadDir(dir + "fd")
	if err != nil {
		return usage{}, err
	}
	u.fds = len(fds)
	rollup, err := os.Open(dir + "smaps_rollup")
	if err != nil {
		return usage{}, err
	}
	defer rollup.Close()
	lines := bufio.NewScanner(rollup)
	for lines.Scan() {
		if _, err := fmt.Sscanf(lines.Text(), "Pss: %d kB", &u.pss); err == nil {
			break
		}
	}
	return u, lines.Err()
}
