package complete

import (
	"embed"
	"fmt"
)

//go:embed usher.bash usher.zsh usher.fish
var scripts embed.FS

// Shells are the shells that have a script.
var Shells = []string{"bash", "zsh", "fish"}

// Script returns the script for a shell.
func Script(shell string) (string, error) {
	text, err := scripts.ReadFile("usher." + shell)
	if err != nil {
		return "", fmt.Errorf("there is no completion for %q", shell)
	}
	return string(text), nil
}
