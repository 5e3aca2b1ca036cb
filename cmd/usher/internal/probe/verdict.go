package probe

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"usher/proxy/admin"
	"usher/proxy/printable"
)

// Verdict is what a probe found, for people and for programs.
type Verdict struct {
	Up     bool
	text   string // one line for people
	what   string // the same without the verdict
	figure string // performance data for Nagios
	data   any    // for JSON
}

// Judge returns the verdict on a SOCKS server.
func Judge(r Result) Verdict {
	v := Verdict{Up: r.Up, what: r.Reason, text: "down: " + r.Reason, data: r, figure: figures(r)}
	if v.Up {
		v.what = r.Server + " forwards"
		v.text = "up: " + v.what
	}
	return v
}

// JudgeReady returns the verdict on a process whose /readyz was asked. A process that
// did not answer is not ready.
func JudgeReady(code int, body []byte, err error, took time.Duration) Verdict {
	v := Verdict{Up: err == nil && code == http.StatusOK, text: "ready", what: "ready", figure: fmt.Sprintf("total=%.3fs", took.Seconds())}
	reason := ""
	if !v.Up {
		if reason = reasonIn(code, body); err != nil {
			reason = err.Error()
		}
		v.what, v.text = reason, "not ready: "+reason
	}
	v.data = Result{Up: v.Up, Reason: reason, Seconds: took.Seconds()}
	return v
}

// reasonIn returns the reason in the body of /readyz, else the HTTP status.
func reasonIn(code int, body []byte) string {
	var r admin.Ready
	if err := json.Unmarshal(body, &r); err != nil || r.Reason == "" {
		return fmt.Sprintf("HTTP status %d", code)
	}
	return r.Reason
}

// Print writes one line for people. w may be closed, if the caller needs only the exit
// code.
func (v Verdict) Print(w io.Writer) { fmt.Fprintln(w, printable.Text(v.text)) }

// PrintJSON writes the verdict for programs.
func (v Verdict) PrintJSON(w io.Writer) error { return printable.WriteJSON(w, v.data) }

// PrintNagios writes the line of a Nagios plugin, with performance data.
func (v Verdict) PrintNagios(w io.Writer) {
	state := "CRITICAL"
	if v.Up {
		state = "OK"
	}
	fmt.Fprintf(w, "USHER %s - %s | %s\n", state, nagiosText(v.what), v.figure)
}

// PrintUnknown writes the line of a Nagios plugin that could not probe.
func PrintUnknown(w io.Writer, err error) {
	fmt.Fprintf(w, "USHER UNKNOWN - %s\n", nagiosText(err.Error()))
}

// nagiosText returns text for a line of a Nagios plugin, where a bar begins the
// performance data.
func nagiosText(text string) string {
	return strings.ReplaceAll(printable.Text(text), "|", "/")
}

// figures returns the time of each step, of the slowest session in it.
func figures(r Result) string {
	var names []string
	slowest := map[string]float64{}
	for _, session := range r.Sessions {
		for _, step := range session {
			name := strings.ReplaceAll(step.Name, " ", "_")
			if _, known := slowest[name]; !known {
				names = append(names, name)
			}
			slowest[name] = max(slowest[name], step.Seconds)
		}
	}
	var b strings.Builder
	for _, name := range names {
		fmt.Fprintf(&b, "%s=%.3fs ", name, slowest[name])
	}
	fmt.Fprintf(&b, "total=%.3fs", r.Seconds)
	return b.String()
}
