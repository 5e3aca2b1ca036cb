package integration

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"usher/deploy/need"
)

// The differential tests give danted and Usher the same file, addresses, ports, /etc
// and requests, each in its own network. So neither changes the machine, and both see
// the same.

// laboratory is such a network: one proxy at a time, and the targets.
type laboratory struct {
	t   testing.TB
	dir string
	etc string // what the proxies see as /etc

	datagrams int      // how many clients have sent
	arrived   sync.Map // the marks of those that a target has got
}

// The addresses of the proxy and of the targets.
var (
	internals   = []string{"127.0.0.1", "127.0.0.2", "::1"} // port 1080
	targetAddrs = []string{"127.0.1.1", "127.0.1.2", "127.0.2.1", "::1"}
	targetPorts = []uint16{7, 21, 80, 8080}
)

// etc is the whole content of /etc.
var etc = map[string]string{
	"hosts": `127.0.0.1 localhost
127.0.1.1 one.test one.alias.test
127.0.1.2 two.test
127.0.2.1 sub.one.test other.example
127.0.1.1 both.test
127.0.1.2 both.test
::1 six.test
2001:db8::7 far6.test
192.0.2.7 far4.test
127.1.0.1 client.test
127.0.9.9 nobody.test
`,
	"nsswitch.conf": "hosts: files\npasswd: files\ngroup: files\nshadow: files\nservices: files\nprotocols: files\n",
	"host.conf":     "multi on\n",
	"resolv.conf":   "nameserver 127.0.0.1\n",
	"group":         "root:x:0:\nnogroup:x:65534:\nstaff:x:3000:alice\n",
	"services":      "echo 7/tcp\necho 7/udp\nftp 21/tcp\nhttp 80/tcp www\nhttp-alt 8080/tcp\nhttp-alt 8080/udp\ntftp 69/udp\n",
	"protocols":     "ip 0 IP\nicmp 1 ICMP\ntcp 6 TCP\nudp 17 UDP\n",
}

// accounts are the users that both proxies know. Each password is "pw-" and the name.
// The hashes are SHA-512 of crypt(3).
var accounts = map[string]string{
	"alice": "$6$usher$qAwlXw.dIEgtkTnf1Cps0QYDIeOhviZfOF/IwHD4ud7tkvLpc8BugTSYeVqIqVDhgtljlfRDDHdyjK.sFcgvr1",
	"bob":   "$6$usher$QFrNDJGLy4knPOxxyf1slq0NDinnR6qoSLNR9Tm/ssLnrihALa7l7u9wVRqjs6nKZAyDzobFdqDTW.Dgx0PAS/",
	"Alice": "$6$usher$eRP8wwGZ2YNuTyiHDrJMTpgDByNOmE8.b/ogABoN3IOSunGu1/GxGgZNlPPcr5XnIBjWTuqO4cnU9iwMYItJ2.",
}

// newLaboratory moves the test's goroutine to a new network, in which the proxies and
// the targets are started. It must be the test's own goroutine. Its thread never leaves
// the network, and ends with it.
func newLaboratory(t testing.TB) *laboratory {
	t.Helper()
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); errors.Is(err, unix.EPERM) {
		need.Missing(t, "the right to make a network namespace (root or CAP_SYS_ADMIN)")
	} else if err != nil {
		t.Fatal(err)
	}
	if err := loopbackUp(); err != nil {
		t.Fatalf("lo: %v", err)
	}
	l := &laboratory{t: t, dir: t.TempDir()}
	l.etc = filepath.Join(l.dir, "etc")
	if err := os.Mkdir(l.etc, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range etc {
		writeFile(t, filepath.Join(l.etc, name), text)
	}
	passwd := "root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n"
	shadow := "root:*:19000::::::\nnobody:*:19000::::::\n"
	id := 2000
	for name, hash := range accounts {
		id++
		passwd += fmt.Sprintf("%s:x:%d:%d::/:/bin/sh\n", name, id, id)
		shadow += fmt.Sprintf("%s:%s:19000:0:99999:7:::\n", name, hash)
	}
	writeFile(t, filepath.Join(l.etc, "passwd"), passwd)
	writeFile(t, filepath.Join(l.etc, "shadow"), shadow)
	var names []string
	for name := range accounts {
		names = append(names, name)
	}
	writeFile(t, filepath.Join(l.dir, "users"), users(t, names...))
	writeFile(t, filepath.Join(l.dir, "groups"), "staff: alice\n")
	for _, addr := range targetAddrs {
		for _, port := range targetPorts {
			l.startTarget(netip.AddrPortFrom(netip.MustParseAddr(addr), port))
		}
	}
	return l
}

// loopbackUp enables the loopback interface, which is down in a new network.
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo)
}

// startTarget starts a target over TCP and one over UDP. Each sends its name and the
// address of its peer: over TCP at once, over UDP as its answer.
func (l *laboratory) startTarget(addr netip.AddrPort) {
	l.t.Helper()
	ln, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(addr))
	if err != nil {
		l.t.Fatal(err)
	}
	pc, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(addr))
	if err != nil {
		l.t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() { serveBanners(ln, addr) })
	running.Go(func() {
		packet := make([]byte, 1<<16)
		for {
			n, from, err := pc.ReadFromUDPAddrPort(packet)
			if err != nil {
				return
			}
			if _, mark, found := strings.Cut(string(packet[:n]), "hello "); found {
				l.arrived.Store(mark, true)
			}
			answer := fmt.Appendf(nil, "%s %v", packet[:n], addr)
			pc.WriteToUDPAddrPort(answer, from) //nolint:errcheck // as with any datagram
		}
	})
	l.t.Cleanup(func() {
		ln.Close()
		pc.Close()
		running.Wait()
	})
}

// serveBanners sends each client a line, and then echoes until the client closes.
func serveBanners(ln *net.TCPListener, addr netip.AddrPort) {
	var running sync.WaitGroup
	defer running.Wait()
	for {
		c, err := ln.AcceptTCP()
		if err != nil {
			return
		}
		running.Go(func() {
			defer c.Close()
			if _, err := fmt.Fprintf(c, "%v %v\n", addr, c.RemoteAddr()); err == nil {
				io.Copy(c, c) //nolint:errcheck // the connection ended, one way or another
			}
		})
	}
}

// contender is a proxy in a laboratory.
type contender struct {
	cmd  *exec.Cmd
	said output
	done chan struct{} // closed when it has ended
}

// startDanted starts danted with a file, and returns nil if danted refuses the file.
func (l *laboratory) startDanted(config string) *contender {
	l.t.Helper()
	return l.start("v1.4.2 running", 1, nil, need.Program(l.t, "danted"), "-f", config)
}

// startUsher starts Usher with a file, and returns nil if Usher refuses the file.
func (l *laboratory) startUsher(config string) *contender {
	l.t.Helper()
	listening := strings.Count(readFile(l.t, config), "internal: ")
	return l.start("listening for SOCKS clients", listening, []string{
		"USHER_CONFIG=" + config, "USHER_LISTEN=", "USHER_ADMIN_LISTEN=off", "USHER_LOG_FORMAT=json",
		"USHER_USERS_FILE=" + filepath.Join(l.dir, "users"), "USHER_GROUPS_FILE=" + filepath.Join(l.dir, "groups"),
		"GORACE=halt_on_error=1 exitcode=66",
	}, usher, "serve")
}

// command returns a program that will see l.etc as its /etc.
func (l *laboratory) command(env []string, program string, args ...string) *exec.Cmd {
	const wrapper = `mount --bind "$0" /etc && exec "$@"`
	cmd := exec.Command("/bin/sh", append([]string{"-c", wrapper, l.etc, program}, args...)...)
	cmd.Env = append([]string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}, env...)
	// danted's children are in its process group, and end with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Unshareflags: syscall.CLONE_NEWNS, Setpgid: true, Pdeathsig: syscall.SIGKILL,
	}
	return cmd
}

// start starts a program that sees l.etc as its /etc, and waits until it has printed
// ready count times. It returns nil if the program ends before that.
func (l *laboratory) start(ready string, count int, env []string, program string, args ...string) *contender {
	l.t.Helper()
	c := &contender{cmd: l.command(env, program, args...), done: make(chan struct{})}
	c.cmd.Stdout, c.cmd.Stderr = &c.said, &c.said
	if err := c.cmd.Start(); err != nil {
		l.t.Fatalf("starting %s: %v", program, err)
	}
	go func() {
		defer close(c.done)
		c.cmd.Wait() //nolint:errcheck // how it ended is in ProcessState
	}()
	refused := false
	trouble := poll(2*patience, func() string {
		select {
		case <-c.done:
			refused = true
			return ""
		default:
		}
		if strings.Count(c.said.String(), ready) >= count {
			return ""
		}
		return "not ready"
	})
	if trouble != "" {
		c.stop(l.t)
		l.t.Fatalf("%s is not ready after %v:\n%s", program, 2*patience, c.said.String())
	}
	if refused {
		c.stop(l.t)
		return nil
	}
	return c
}

// stop ends a proxy and all its children.
func (c *contender) stop(t testing.TB) {
	t.Helper()
	syscall.Kill(-c.cmd.Process.Pid, syscall.SIGKILL) //nolint:errcheck // it may have ended before, which is fine
	<-c.done
	if said := c.said.String(); strings.Contains(said, "DATA RACE") {
		t.Errorf("a data race:\n%s", said)
	}
}

// within sets the deadline for one step of a client.
func within(c net.Conn) net.Conn {
	c.SetDeadline(time.Now().Add(patience)) //nolint:errcheck // it fails on closed connections, and so does what follows
	return c
}

// dialFrom connects from an address of the laboratory to one of the proxy.
func dialFrom(from netip.AddrPort, to string) (net.Conn, error) {
	d := net.Dialer{Timeout: patience}
	if from.IsValid() {
		d.LocalAddr = net.TCPAddrFromAddrPort(from)
		// A source port that a case names is used several times.
		d.Control = func(_, _ string, c syscall.RawConn) error {
			var failed error
			if err := c.Control(func(fd uintptr) {
				failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
			}); err != nil {
				return err
			}
			return failed
		}
	}
	conn, err := d.Dial("tcp", to)
	if err != nil {
		return nil, err
	}
	return within(conn), nil
}

// readLine reads to the end of a line, and not a byte more.
func readLine(r io.Reader) (string, error) {
	var line bytes.Buffer
	var b [1]byte
	for line.Len() < 1000 {
		if _, err := io.ReadFull(r, b[:]); err != nil {
			return line.String(), err
		}
		if b[0] == '\n' {
			break
		}
		line.WriteByte(b[0])
	}
	return line.String(), nil
}
