package integration

import (
	"context"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"
)

// TestReadmeDemo runs the demo of README.md: every sh block of its section, in
// one shell, as a reader pastes them. Two things differ: the ports, so that
// several can run, and the image, which is built already.
func TestReadmeDemo(t *testing.T) {
	needDocker(t, "redis:7-alpine", "haproxy:3.0-alpine", "busybox:1.36")
	d := newDemo(t)
	blocks := shellBlocks(t, readFile(t, "../README.md"), "## Demo")
	const some = -1
	const page, refused = `^Hello from the demo target\.$`, `^curl: \(97\) .* \(2\)$`
	want := []map[string]int{ // how many lines of a block's output match; some: one or more
		{},
		{page: 2, `^curl: \(97\) .* redis\. \(4\)$`: 1}, // as for a name that does not exist
		{`^via [0-9a-f]{12}-1$`: 5, refused: 1},
		{page: 1},
		{`^via [0-9a-f]{12}-1$`: 2, refused: 1, `^reloaded: /etc/usher/sockd\.conf, generation g[2?]-`: 3, `^s1 .* 2 +2 `: 3, `^s1 .* 5 `: some},
		{page: 1, `^curl: \(97\) .* \(1\)$`: 1},
		{},
	}
	if len(blocks) != len(want) {
		t.Fatalf("the demo has %d blocks, want %d", len(blocks), len(want))
	}
	outputs := d.paste(t, blocks)
	for i, lines := range want {
		for pattern, n := range lines {
			got := 0
			for _, line := range outputs[i] {
				if regexp.MustCompile(pattern).MatchString(line) {
					got++
				}
			}
			if got != n && (n != some || got == 0) {
				t.Errorf("after\n%s%d lines match %q, want %d:\n%s", blocks[i], got, pattern, n, strings.Join(outputs[i], "\n"))
			}
		}
	}
}

// shellBlocks returns the sh blocks of the section that begins with heading.
func shellBlocks(t *testing.T, markdown, heading string) (blocks []string) {
	t.Helper()
	_, section, ok := strings.Cut(markdown, "\n"+heading)
	if !ok {
		t.Fatalf("no section %q", heading)
	}
	section, _, _ = strings.Cut(section, "\n## ")
	for _, m := range regexp.MustCompile("(?s)\n```sh\n(.*?)```\n").FindAllStringSubmatch(section, -1) {
		blocks = append(blocks, m[1])
	}
	return blocks
}

// paste runs the blocks in one shell, and returns the lines that each printed.
func (d *demo) paste(t *testing.T, blocks []string) (outputs [][]string) {
	t.Helper()
	const mark = "== next block"
	script := ""
	if d.command[0] != "docker" { // Compose 1.29 is a program of its own
		script = "docker() { if [ \"$1\" = compose ]; then shift; docker-compose \"$@\"; else command docker \"$@\"; fi; }\n"
	}
	script += strings.Join(blocks, "echo '"+mark+"'\n")
	script = strings.NewReplacer("127.0.0.1:1080", d.proxy, "http://127.0.0.1:8404/metrics", d.stats.stats, " --build", " --no-build").Replace(script)

	ctx, cancel := context.WithTimeout(t.Context(), 9*time.Minute) // its sessions last ten
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", "-c", script)
	cmd.Dir, cmd.Env = d.dir, append(d.env, "COMPOSE_PROJECT_NAME="+d.project)
	cmd.WaitDelay = time.Second // a curl that holds a session has the pipe, too
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("the last command of the demo: %v", err)
	}
	parts := strings.Split(string(out), mark+"\n")
	if len(parts) != len(blocks) {
		t.Fatalf("%d of %d blocks ran:\n%s", len(parts), len(blocks), out)
	}
	for _, part := range parts {
		outputs = append(outputs, strings.Split(part, "\n"))
	}
	return outputs
}
