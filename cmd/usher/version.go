package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

type versionCmd struct{}

// Run prints the version, the source revision if the build knows it, and the
// Go version and platform.
func (versionCmd) Run(sys system) error {
	_, err := fmt.Fprintf(sys.stdout, "usher %s %s %s/%s\n", version(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return err
}

// version returns what the Go toolchain stamped into the binary: a tag, a
// pseudo-version with the revision, or "devel" outside a repository.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" || info.Main.Version == "(devel)" {
		return "devel"
	}
	return info.Main.Version
}
