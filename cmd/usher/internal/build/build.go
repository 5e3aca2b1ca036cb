// Package build tells which build of usher this is.
package build

import (
	"cmp"
	"fmt"
	"runtime"
	"runtime/debug"
)

// Release builds set these with the linker flag -X. Without them, This reads
// what the Go toolchain recorded.
var version, commit, date string

// Info describes a binary. Its JSON form is the output of usher version --json.
type Info struct {
	Version  string `json:"version"` // a tag, a pseudo-version, or devel
	Commit   string `json:"commit"`  // unknown outside a repository
	Date     string `json:"date"`    // of the build, else of the commit
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

func (b Info) String() string {
	return fmt.Sprintf("usher %s (commit %s, %s) %s %s", b.Version, b.Commit, b.Date, b.Go, b.Platform)
}

// This describes this binary. It returns the linker's values, else those of version control, else the
// version of the module, as in a binary of go install.
func This() Info {
	b := Info{version, commit, date, runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH}
	if info, ok := debug.ReadBuildInfo(); ok {
		b = b.or(info)
	}
	b.Version, b.Commit, b.Date = cmp.Or(b.Version, "devel"), cmp.Or(b.Commit, "unknown"), cmp.Or(b.Date, "unknown")
	return b
}

// or fills in what b lacks from info.
func (b Info) or(info *debug.BuildInfo) Info {
	vcs := map[string]string{}
	for _, s := range info.Settings {
		vcs[s.Key] = s.Value
	}
	if info.Main.Version != "(devel)" {
		b.Version = cmp.Or(b.Version, info.Main.Version)
	}
	if revision := vcs["vcs.revision"]; b.Commit == "" && revision != "" {
		b.Commit = revision
		if vcs["vcs.modified"] == "true" {
			b.Commit += "-dirty"
		}
	}
	b.Date = cmp.Or(b.Date, vcs["vcs.time"])
	return b
}
