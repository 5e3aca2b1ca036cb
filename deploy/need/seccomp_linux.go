package need

import (
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// inChild is set in the environment of a process that Alone has started.
const inChild = "USHER_TEST_CHILD"

// Alone runs the test in a process of its own, because what it does to its
// process cannot be undone, such as Refuse. It returns true in that process. In
// the first one it reports how the other has ended and returns false.
func Alone(t *testing.T) bool {
	t.Helper()
	if os.Getenv(inChild) == t.Name() {
		return true
	}
	var names []string
	for name := range strings.SplitSeq(t.Name(), "/") {
		names = append(names, "^"+name+"$")
	}
	child := exec.CommandContext(t.Context(), os.Args[0], "-test.run="+strings.Join(names, "/"), "-test.v", "-test.timeout=5m")
	child.Env = append(os.Environ(), inChild+"="+t.Name())
	out, err := child.CombinedOutput()
	switch {
	case err != nil:
		t.Errorf("%v\n%s", err, out)
	case strings.Contains(string(out), "--- SKIP"):
		Missing(t, "seccomp")
	}
	return false
}

// Option is an option of setsockopt: its level and its name.
type Option struct{ Level, Name int }

// Refuse makes a system call of all threads of this process fail with an error
// until the process ends, by a seccomp filter. With options it is those of
// setsockopt alone. The test is skipped where there is no seccomp.
func Refuse(t *testing.T, call uintptr, with syscall.Errno, options ...Option) {
	t.Helper()
	const number, level, name = 0, 16 + 8, 16 + 16 // in struct seccomp_data; the low half of each argument
	load := func(at uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: at}
	}
	unless := func(value, skip int) unix.SockFilter { // skips instructions
		return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: uint32(value), Jf: uint8(skip)}
	}
	end := func(what uint32) unix.SockFilter { return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: what} }
	fail := end(unix.SECCOMP_RET_ERRNO | uint32(with))

	filter := []unix.SockFilter{load(number), unless(int(call), 1), fail}
	if len(options) > 0 {
		filter = []unix.SockFilter{load(number), unless(int(call), 5*len(options))}
	}
	for _, o := range options {
		filter = append(filter, load(level), unless(o.Level, 3), load(name), unless(o.Name, 1), fail)
	}
	filter = append(filter, end(unix.SECCOMP_RET_ALLOW))
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}

	runtime.LockOSThread() // both calls are about one thread, and the second one about all
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&program)))
	if errno != 0 {
		Missing(t, "seccomp ("+errno.Error()+")")
	}
}
