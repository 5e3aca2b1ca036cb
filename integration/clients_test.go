package integration

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"usher/deploy/need"
)

// compatibility is the page whose table TestClients runs.
const compatibility = "../docs/compatibility.md"

// clientRow is a row of that table.
type clientRow struct {
	client   string
	pkg      string   // Debian's name of the package, and its version
	commands []string // SOCKS commands that are admitted
	shell    string
	output   string // what the shell command prints, among other things
	fails    bool   // with another exit code than 0
}

// clientRows reads the table.
func clientRows(t *testing.T, page string) []clientRow {
	t.Helper()
	var rows []clientRow
	for line := range strings.Lines(page) {
		cells := strings.Split(strings.ReplaceAll(strings.TrimSpace(line), `\|`, "\x00"), "|")
		if len(cells) != 7 || strings.HasPrefix(line, "| client ") || strings.HasPrefix(line, "|-") {
			continue
		}
		for i, cell := range cells {
			cells[i] = strings.TrimSpace(strings.ReplaceAll(cell, "\x00", "|"))
		}
		r := clientRow{client: cells[1], pkg: cells[2], shell: strings.Trim(cells[4], "`")}
		for command := range strings.SplitSeq(cells[3], ",") {
			if command = strings.TrimSpace(command); command != "" {
				r.commands = append(r.commands, command)
			}
		}
		r.output, r.fails = strings.CutPrefix(cells[5], "fails: ")
		r.output = strings.Trim(r.output, "`")
		if r.shell == "" || r.output == "" {
			t.Fatalf("%s: a row without command or output: %s", compatibility, line)
		}
		rows = append(rows, r)
	}
	if len(rows) == 0 {
		t.Fatalf("%s has no table of clients", compatibility)
	}
	return rows
}

// clientRules leave one port to the user jo.
const clientRules = `
socksmethod: username none
client pass {
	from: 0/0 to: 0/0
}
socks pass {
	from: 0/0 to: 0/0 port = %[1]s
	user: jo
	maxsessions: 5
}
socks block {
	from: 0/0 to: 0/0 port = %[1]s
}
socks pass {
	from: 0/0 to: 0/0
	maxsessions: 5
}`

// TestClients lets programs that we did not write use every way that they have
// to ask, as docs/compatibility.md says.
func TestClients(t *testing.T) {
	page := readFile(t, compatibility)
	dir := t.TempDir()
	vars := map[string]string{
		"DIR": dir,
		"WEB": startWeb(t),
		"JO":  startWeb(t),
		"SSH": startSSH(t, dir),
		"FTP": startFTP(t, dir),
		"DNS": startDNS(t),
		// See the page.
		"SOCKS_AUTOADD_LANROUTES": "no",
	}
	w := newWorld(t, options{users: users(t, "jo"), rules: func(_, _ endpoint) string {
		return fmt.Sprintf(clientRules, vars["JO"])
	}})
	vars["PROXY"] = w.proxy.proxy
	vars["PROXY_HOST"], vars["PROXY_PORT"], _ = net.SplitHostPort(w.proxy.proxy)
	vars["REPLICA_HOST"], vars["REPLICA_PORT"], _ = net.SplitHostPort(w.replicas[0].socks)
	writeClientFiles(t, page, dir, vars)
	for _, row := range clientRows(t, page) {
		t.Run(row.client, func(t *testing.T) { w.runClient(t, row, vars) })
	}
}

// runClient runs one row.
func (w *world) runClient(t *testing.T, row clientRow, vars map[string]string) {
	needClient(t, row)
	before := w.admitted(t)
	env := []string{}
	for name, value := range vars {
		env = append(env, name+"="+value)
	}
	// timeout ends what the shell has started, too.
	p := start(t, row.client, env, "timeout", "60", "sh", "-c", row.shell)
	select {
	case <-p.done:
	case <-time.After(4 * patience):
		t.Fatalf("%s does not end", row.shell)
	}
	code := p.cmd.ProcessState.ExitCode()
	if out := p.out.String(); (code != 0) != row.fails || !strings.Contains(out, row.output) {
		t.Errorf("%s: exit code %d, want output with %q, failure %v", row.shell, code, row.output, row.fails)
	}
	w.waitNoSlots(t)
	after := w.admitted(t)
	var admitted []string
	for command, n := range after {
		if n > before[command] {
			admitted = append(admitted, command)
		}
	}
	slices.Sort(admitted)
	if !slices.Equal(admitted, row.commands) {
		t.Errorf("%s: SOCKS commands admitted %q, want %q", row.shell, admitted, row.commands)
	}
}

// admitted returns how many sessions socks-rules have let in, by command.
func (w *world) admitted(t testing.TB) map[string]float64 {
	t.Helper()
	count := map[string]float64{}
	for _, r := range w.replicas {
		for sample, n := range r.metrics(t) {
			if m := admittedSample.FindStringSubmatch(sample); m != nil && m[1] != "negotiate" {
				count[m[1]] += n
			}
		}
	}
	return count
}

var admittedSample = regexp.MustCompile(`^usher_sessions_admitted_total\{command="(\w+)"`)

// waitNoSlots waits until no replica has a session and the store counts none
// for any rule.
func (w *world) waitNoSlots(t testing.TB) {
	t.Helper()
	eventually(t, patience, func() string {
		for _, r := range w.replicas {
			st := r.status(t)
			if st.Sessions != 0 {
				return fmt.Sprintf("%s has %d sessions", r.name, st.Sessions)
			}
			for _, l := range st.Rules.Limits {
				if l.Sessions != 0 {
					return fmt.Sprintf("%s: the store counts %d sessions of %s", r.name, l.Sessions, l.Rule)
				}
			}
		}
		return ""
	})
}

// clientPrograms are what a word of a command needs: programs for it, and the
// server that it asks.
var clientPrograms = map[string][]string{
	"curl": {"curl"}, "socksify": {"socksify"}, "proxychains4": {"proxychains4"}, "nc": {"nc"}, "python3": {"python3"},
	"ssh": {"ssh", "nc", "sshd", "ssh-keygen"}, "tnftp": {"tnftp", "vsftpd"}, "drill": {"drill", "dnsmasq"},
	"$DIR/dig.py": {"dnsmasq"},
}

// installed reports whether the programs are all here. What is not is the
// trouble of the rows that need it, not of the others.
func installed(programs ...string) bool {
	return !slices.ContainsFunc(programs, func(name string) bool {
		_, err := exec.LookPath(name)
		return err != nil
	})
}

// needClient checks that the programs of a row are here, and on Debian 12 that
// they have the version that the page states.
func needClient(t *testing.T, row clientRow) {
	t.Helper()
	for _, word := range strings.Fields(row.shell) {
		for _, program := range clientPrograms[word] {
			need.Program(t, program)
		}
	}
	if help, _ := exec.Command("nc", "-h").CombinedOutput(); strings.Contains(row.shell, "nc ") && !strings.Contains(string(help), "OpenBSD") {
		need.Missing(t, "OpenBSD's nc")
	}
	if strings.Contains(row.shell, "python3 ") && exec.Command("/usr/bin/python3", "-c", "import socks").Run() != nil {
		need.Missing(t, "python3-socks")
	}
	release, err := os.ReadFile("/etc/debian_version")
	if err != nil || !strings.HasPrefix(string(release), "12.") {
		return
	}
	name, version, _ := strings.Cut(row.pkg, " ")
	installed, err := exec.Command("dpkg-query", "-W", "-f", "${Version}", name).Output()
	if err != nil {
		need.Missing(t, "Debian package "+name)
	}
	if !strings.Contains(string(installed), version) {
		t.Errorf("%s says %s, installed is %s", compatibility, row.pkg, installed)
	}
}

// writeClientFiles writes the files that the page shows, each under a heading
// with its name, to dir. The names of vars stand for their values.
func writeClientFiles(t *testing.T, page, dir string, vars map[string]string) {
	t.Helper()
	files := regexp.MustCompile("(?s)\n## ([\\w.]+)\n\n```\n(.*?)```").FindAllStringSubmatch(page, -1)
	if len(files) == 0 {
		t.Fatalf("%s shows no files", compatibility)
	}
	for _, f := range files {
		writeFile(t, filepath.Join(dir, f[1]), os.Expand(f[2], func(name string) string { return vars[name] }))
	}
}

// startWeb starts a web server on one port of 127.0.0.1 and ::1, and returns
// the port.
func startWeb(t *testing.T) string {
	t.Helper()
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "page for "+r.Host) //nolint:errcheck // the client would tell
	})}
	var serving sync.WaitGroup
	port := strconv.Itoa(need.Port(t))
	for _, host := range []string{"127.0.0.1", "::1"} {
		ln, err := net.Listen("tcp", net.JoinHostPort(host, port))
		if err != nil {
			t.Log(err)
			need.Missing(t, "a port on both loopback addresses")
		}
		serving.Go(func() { server.Serve(ln) }) //nolint:errcheck // it ends with the test
	}
	t.Cleanup(func() { server.Close(); serving.Wait() })
	return port
}

// startSSH starts an OpenSSH server with keys of its own in dir, and returns
// its port, "" if it is not installed.
func startSSH(t *testing.T, dir string) string {
	t.Helper()
	if !installed("sshd", "ssh-keygen") {
		return ""
	}
	program, port := need.Program(t, "sshd"), strconv.Itoa(need.Port(t))
	if err := os.Mkdir("/run/sshd", 0o755); err == nil { // as root it wants this one
		t.Cleanup(func() { os.Remove("/run/sshd") })
	}
	for _, key := range []string{"host_key", "client_key"} {
		out, err := exec.Command(need.Program(t, "ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(dir, key)).CombinedOutput()
		if err != nil {
			t.Fatalf("ssh-keygen: %v: %s", err, out)
		}
	}
	writeFile(t, filepath.Join(dir, "known_hosts"), "[127.0.0.1]:"+port+" "+readFile(t, filepath.Join(dir, "host_key.pub")))
	sshd := start(t, "sshd", nil, program, "-D", "-e", "-f", "/dev/null",
		"-o", "ListenAddress=127.0.0.1:"+port, "-o", "PidFile=none", "-o", "StrictModes=no",
		"-o", "HostKey="+filepath.Join(dir, "host_key"),
		"-o", "AuthorizedKeysFile="+filepath.Join(dir, "client_key.pub"))
	sshd.waitListens("127.0.0.1:" + port)
	return port
}

// startFTP starts vsftpd, without passive mode, and returns its port, ""
// if it is not installed.
func startFTP(t *testing.T, dir string) string {
	t.Helper()
	if !installed("vsftpd") {
		return ""
	}
	program, port := need.Program(t, "vsftpd"), strconv.Itoa(need.Port(t))
	files := filepath.Join(dir, "ftp")
	for _, d := range []string{files, filepath.Join(dir, "empty")} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	writeFile(t, filepath.Join(files, "greeting"), "file over an active connection\n")
	conf := filepath.Join(dir, "vsftpd.conf")
	// What confines it needs more rights than a container gives to its root.
	writeFile(t, conf, `listen=YES
listen_address=127.0.0.1
listen_port=`+port+`
background=NO
local_enable=NO
anonymous_enable=YES
no_anon_password=YES
anon_root=`+files+`
secure_chroot_dir=`+filepath.Join(dir, "empty")+`
pasv_enable=NO
connect_from_port_20=NO
seccomp_sandbox=NO
isolate=NO
isolate_network=NO
`)
	start(t, "vsftpd", nil, program, conf).waitListens("127.0.0.1:" + port)
	return port
}

// startDNS starts dnsmasq with one name, and returns its port, "" if it is not
// installed.
func startDNS(t *testing.T) string {
	t.Helper()
	if !installed("dnsmasq") {
		return ""
	}
	program, port := need.Program(t, "dnsmasq"), strconv.Itoa(need.Port(t))
	start(t, "dnsmasq", nil, program, "--keep-in-foreground", "--conf-file=/dev/null", "--pid-file=", "--user=",
		"--no-resolv", "--no-hosts", "--listen-address=127.0.0.1", "--bind-interfaces", "--port="+port,
		"--address=/www.usher.test/192.0.2.7").waitListens("127.0.0.1:" + port)
	return port
}

// waitListens waits until p accepts connections at addr.
func (p *process) waitListens(addr string) {
	p.t.Helper()
	eventually(p.t, patience, func() string {
		if code, ended := p.ended(); ended {
			p.t.Fatalf("%s ended with code %d", p.name, code)
		}
		conn, err := net.DialTimeout("tcp", addr, patience)
		if err != nil {
			return err.Error()
		}
		conn.Close()
		return ""
	})
}
