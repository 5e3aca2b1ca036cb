package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"usher/cmd/usher/internal/screen/screentest"
	"usher/deploy/need"
)

// completions are what a person types, with a tab, and what the line is then. Each of
// them has one candidate.
var completions = map[string]string{
	"usher sess":                         "usher sessions ",
	"usher completion z":                 "usher completion zsh ",
	"usher sessions --inter":             "usher sessions --interval ",
	"usher sessions --sort be":           "usher sessions --sort began ",
	"usher sessions --sort=be":           "usher sessions --sort=began ",
	"usher refusals --reason store_u":    "usher refusals --reason store_unavailable ",
	"usher validate some":                "usher validate someones.conf ",
	"usher apply --key=some":             "usher apply --key=someones.conf ",
	"usher explain --co":                 "usher explain --co",
	"./usher lim":                        "./usher limits ",
	"usher sessions --watch --generatio": "usher sessions --watch --generation ",
}

// inFolder returns a folder with one file and a link to usher.
func inFolder(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "someones.conf"), "")
	program, err := exec.LookPath("usher")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(program, filepath.Join(dir, "usher")); err != nil {
		t.Fatal(err)
	}
	return dir
}

// Real shells complete real lines: the keys are typed at a terminal, and a key of the
// test shows what the line has become.
func TestCompletionInBash(t *testing.T) {
	const setup = `PS1=; source <(usher completion bash); bind -x '"\C-x": printf "line=[%s]\n" "$READLINE_LINE"'` + "\n"
	completesAtATerminal(t, exec.Command(need.Program(t, "bash"), "--norc", "--noprofile", "-i"), setup)
}

func TestCompletionInZsh(t *testing.T) {
	const setup = `PS1=; autoload -U compinit; compinit -D -u; source <(usher completion zsh); show() print "line=[$BUFFER]"; zle -N show; bindkey '^X' show` + "\n"
	completesAtATerminal(t, exec.Command(need.Program(t, "zsh"), "-f", "-i"), setup)
}

func completesAtATerminal(t *testing.T, shell *exec.Cmd, setup string) {
	t.Helper()
	shell.Dir = inFolder(t)
	shell.Env = append(os.Environ(), "TERM=vt100", "HOME="+shell.Dir, "LC_ALL=C.UTF-8", "USHER_ADMIN_LISTEN=off")
	terminal := screentest.Open(t, 50, 200)
	terminal.Start(shell)
	terminal.Type(setup + "echo rea'dy'\n")
	terminal.Await("ready")
	for typed, want := range completions {
		terminal.Type(typed + "\t\x18")
		terminal.Await("line=[" + want + "]")
		terminal.Type("\x15") // clears the line
	}
}

// fish tells its completions without a terminal.
func TestCompletionInFish(t *testing.T) {
	fish, dir := need.Program(t, "fish"), inFolder(t)
	for typed, want := range completions {
		cmd := exec.Command(fish, "--no-config", "-c", "usher completion fish | source; complete -C $argv[1]", typed)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "HOME="+dir, "LC_ALL=C.UTF-8", "USHER_ADMIN_LISTEN=off")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		// A line for each candidate for the last word, with a tab before its help.
		got, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\t")
		words := strings.Fields(want)
		if wanted := words[len(words)-1]; got != wanted && !(got == "" && want == typed) {
			t.Errorf("%q: %q, want %q", typed, out, wanted)
		}
	}
}
