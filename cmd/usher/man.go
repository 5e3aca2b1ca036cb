package main

import (
	"github.com/alecthomas/kong"

	"usher/cmd/usher/internal/build"
	"usher/cmd/usher/internal/man"
)

type manCmd struct{}

// Run prints the manual page usher(1). Packages call it when they are built.
func (manCmd) Run(sys system, app *kong.Kong) error {
	return man.Write(sys.stdout, app.Model, build.This().Version)
}
