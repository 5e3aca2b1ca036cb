package suite

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"usher/deploy/need"
)

// module is the folder of the module usher/integration.
const module = "../../../integration"

func TestMain(m *testing.M) {
	code := m.Run()
	need.NotCached() // go test does not see what the other go test depends on
	os.Exit(code)
}

// TestIntegration runs the tests of the module usher/integration. When one of them has
// ended, it becomes a subtest here, with its output. So -v, -json and -run
// 'TestIntegration/TestFaults' work as usual.
func TestIntegration(t *testing.T) {
	cmd := exec.Command("go", append([]string{"test", "-json", "-count=1"}, arguments(t)...)...)
	cmd.Dir = module
	cmd.Stderr = need.Stderr() // where that go test names what was not here
	cmd.Env = append(cmd.Environ(), need.TotalFile())
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	run := results{tests: map[string]*result{}}
	readErr := run.read(t, out)
	if err := errors.Join(readErr, cmd.Wait()); err != nil && !t.Failed() {
		t.Errorf("%v: no test failed, but the run did", err)
	}
	// Tests that had not ended when the run did, as after a panic or a time-out.
	run.replayRest(t)
	if t.Failed() {
		fmt.Fprint(t.Output(), run.other.String())
	}
}

// arguments are the flags of this run that the other one gets, too.
func arguments(t *testing.T) []string {
	var args []string
	if raceEnabled {
		args = append(args, "-race")
	}
	flag.Visit(func(f *flag.Flag) {
		switch name := strings.TrimPrefix(f.Name, "test."); name {
		case "short", "shuffle", "failfast", "parallel", "cpu":
			args = append(args, "-"+name+"="+f.Value.String())
		case "run", "skip":
			if _, below, ok := strings.Cut(f.Value.String(), "/"); ok {
				args = append(args, "-"+name, below)
			}
		}
	})
	// The other run ends first, and says which of its tests hang.
	if deadline, ok := t.Deadline(); ok {
		left := time.Until(deadline)
		args = append(args, "-timeout="+(left-min(left/10, 20*time.Second)).String())
	} else {
		args = append(args, "-timeout=0")
	}
	return append(args, "./...")
}

// event is a line of go test -json.
type event struct {
	Action, Test, Output string
	Elapsed              float64 // seconds
}

// result is the known part of one test of the other run.
type result struct {
	name     string // without those of the tests that it is a part of
	output   strings.Builder
	begun    bool    // else it is no test: names may have a slash of their own
	action   string  // pass, fail or skip when it has ended
	took     float64 // seconds
	children []*result
}

type results struct {
	tests map[string]*result // by name
	top   []*result
	other strings.Builder // output that belongs to no test
}

// read handles events until the run has ended. A top-level test is replayed when it has
// ended.
func (r *results) read(t *testing.T, out io.Reader) error {
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var e event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			fmt.Fprintln(&r.other, lines.Text())
			continue
		}
		if e.Test == "" {
			r.other.WriteString(e.Output)
			continue
		}
		test := r.test(e.Test)
		test.begun = true
		test.output.WriteString(e.Output)
		switch e.Action {
		case "pass", "fail", "skip":
			test.action, test.took = e.Action, e.Elapsed
			if !strings.Contains(e.Test, "/") {
				test.replay(t)
			}
		}
	}
	return lines.Err()
}

// test returns the test of this name. At the first time, it creates it and its parents.
func (r *results) test(name string) *result {
	if known := r.tests[name]; known != nil {
		return known
	}
	test := &result{name: name}
	r.tests[name] = test
	if i := strings.LastIndexByte(name, '/'); i >= 0 {
		test.name = name[i+1:]
		parent := r.test(name[:i])
		parent.children = append(parent.children, test)
	} else {
		r.top = append(r.top, test)
	}
	return test
}

func (r *results) replayRest(t *testing.T) {
	for _, test := range r.top {
		if test.action == "" {
			test.replay(t)
		}
	}
}

// replay repeats a test of the other run as one of this run.
func (r *result) replay(t *testing.T) {
	t.Run(r.name, func(t *testing.T) {
		for _, child := range r.children {
			child.replay(t)
		}
		fmt.Fprintf(t.Output(), "%stook %.2fs\n", r.said(), r.took)
		switch r.action {
		case "skip":
			t.SkipNow()
		case "fail":
			t.FailNow()
		case "":
			if !r.begun {
				return
			}
			t.Error("it had not ended when the run did")
		}
	})
}

// said is the test's output without the lines that go test adds.
func (r *result) said() string {
	var b strings.Builder
	for line := range strings.Lines(r.output.String()) {
		text := strings.TrimSpace(line)
		if strings.HasPrefix(text, "=== ") || strings.HasPrefix(text, "--- ") && strings.HasSuffix(text, "s)") {
			continue
		}
		b.WriteString(line)
	}
	return b.String()
}
