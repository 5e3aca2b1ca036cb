package main

import (
	"fmt"

	"usher/cmd/usher/internal/build"
	"usher/proxy/printable"
)

type versionCmd struct {
	JSON bool `name:"json" help:"Print JSON."`
}

// Run prints the same line as usher --version, or JSON.
func (v versionCmd) Run(sys system) error {
	if v.JSON {
		return printable.WriteJSON(sys.stdout, build.This())
	}
	_, err := fmt.Fprintln(sys.stdout, build.This())
	return err
}
