package integration

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// reload writes other rules into the file, signals the proxy, and returns its reaction:
// "reloaded", "kept the old rules" or "ended".
func (d *interview) reload(q question) string {
	next := ruleCase{rules: strings.ReplaceAll(q.rules, " | ", "\n") + "\n"}
	writeFile(d.lab.t, filepath.Join(d.lab.dir, "sockd.conf"), next.config())
	return d.proxy.hangUp(children(d.proxy.cmd.Process.Pid))
}

// hangUp sends SIGHUP, and waits until the proxy and all its children have reacted.
func (c *contender) hangUp(children []string) string {
	before := len(c.said.String())
	if err := syscall.Kill(c.cmd.Process.Pid, syscall.SIGHUP); err != nil {
		return err.Error()
	}
	var became string
	if trouble := poll(2*patience, func() string {
		switch said := c.said.String()[before:]; {
		case strings.Contains(said, `"msg":"reloaded"`), saidByAll(said, children):
			became = "reloaded"
		case strings.Contains(said, "keeping the old rules"):
			became = "kept the old rules"
		case errors.Is(syscall.Kill(c.cmd.Process.Pid, 0), syscall.ESRCH):
			became = "ended"
		default:
			return "no word of a reload"
		}
		return ""
	}); trouble != "" {
		return trouble
	}
	return became
}

// saidByAll reports whether each of danted's children has begun to reload. A child
// reloads before it takes another request.
func saidByAll(said string, children []string) bool {
	for _, pid := range children {
		if !strings.Contains(said, fmt.Sprintf("danted[%s]: info: sighup_child()", pid)) {
			return false
		}
	}
	return len(children) > 0
}

// children returns the process ids of a program's children: none if it has ended.
func children(pid int) []string {
	list, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return nil
	}
	return strings.Fields(string(list))
}

// speak sends a line to the target of a connection. The target sends it back.
func (p *party) speak() string {
	within(p)
	if _, err := io.WriteString(p, "hello\n"); err != nil {
		return ended(err, errHungUp).Error()
	}
	line, err := readLine(p)
	if err != nil {
		return ended(err, errHungUp).Error()
	}
	return "the target says " + line
}
