package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

type versionCmd struct{}

// Run prints what usher --version prints too.
func (versionCmd) Run(sys system) error {
	_, err := fmt.Fprintln(sys.stdout, versionLine())
	return err
}

// versionLine returns the version, the Go version and the platform.
func versionLine() string {
	return fmt.Sprintf("usher %s %s %s/%s", version(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
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
