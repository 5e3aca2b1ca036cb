package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
)

// What a peer can do apart from CONNECT without a login.
const (
	logins     = "logins"     // check a password
	anyLogins  = "anyLogins"  // know many users
	datagrams  = "datagrams"  // UDP ASSOCIATE
	manyHeld   = "manyHeld"   // hold mostHeld sessions with the memory and descriptors of this machine
	ownProcess = "ownProcess" // it uses CPU and memory
)

// peer is a way to the target.
type peer struct {
	name    string
	program string   // that must be installed; "": none
	can     []string // see above
	asked   bool     // it is measured only if a list names it
	plain   bool     // it forwards to the target, and speaks no SOCKS
	// start returns the command that listens at an address. nil: clients connect to the
	// target itself.
	start func(dir string, at *net.TCPAddr, t *target) (*exec.Cmd, error)
}

// peers are what is measured, in the order of each round. The first one is Usher.
var peers = []*peer{
	{name: "usher", can: []string{ownProcess, logins, anyLogins, datagrams, manyHeld}, start: startUsher},
	{name: "bare", can: []string{ownProcess, logins}, start: startBare},
	{name: "danted", program: "danted", can: []string{ownProcess, logins, anyLogins, datagrams}, start: startDanted},
	{name: "microsocks", program: "microsocks", can: []string{ownProcess}, start: startMicrosocks},
	{name: "haproxy", program: "haproxy", can: []string{ownProcess}, plain: true, start: startHAProxy},
	{name: "direct", plain: true},
	{name: "accounting", asked: true, can: []string{ownProcess, logins, anyLogins, datagrams, manyHeld}, start: startAccounting},
}

// choose leaves the peers of a list, or all, and those that are installed. With before,
// it leaves usher and that file.
func choose(only []string, before string) {
	if before != "" {
		older := *peers[0]
		older.name, older.start = "before", func(dir string, at *net.TCPAddr, _ *target) (*exec.Cmd, error) {
			return serveUsher(before, "before", dir, at)
		}
		peers = []*peer{peers[0], &older}
		return
	}
	peers = slices.DeleteFunc(peers, func(p *peer) bool {
		if p.asked && !slices.Contains(only, p.name) {
			return true
		}
		if len(only) > 0 && p.name != "usher" && !slices.Contains(only, p.name) {
			return true
		}
		if p.program == "" {
			return false
		}
		_, err := exec.LookPath(p.program)
		if err != nil {
			fmt.Fprintf(os.Stderr, "no %s here: without it\n", p.program)
		}
		return err != nil
	})
}

const usherRules = `
socksmethod: username none
client pass { from: 127.0.0.0/8 to: 0/0 }
socks pass { from: 127.0.0.0/8 to: 0/0
	session.max: 100000 }
`

func startUsher(dir string, at *net.TCPAddr, _ *target) (*exec.Cmd, error) {
	return serveUsher(filepath.Join(dir, "usher"), "usher", dir, at)
}

func serveUsher(program, name, dir string, at *net.TCPAddr) (*exec.Cmd, error) {
	rules := filepath.Join(dir, name+".conf")
	cmd := exec.Command(program, "serve")
	// One address may hold seven eighths of the places.
	cmd.Env = append(os.Environ(), "USHER_LISTEN="+at.String(), "USHER_CONFIG="+rules, "USHER_USERS_FILE="+filepath.Join(dir, "users"), "USHER_ADMIN_LISTEN=off", "USHER_MAX_SESSIONS="+strconv.Itoa(mostHeld*8/7+8), "USHER_DRAIN_GRACE=0s", "USHER_DRAIN_TIMEOUT=0s")
	return cmd, os.WriteFile(rules, []byte(usherRules), 0o644)
}

// startAccounting starts an usher that also writes the accounting.
func startAccounting(dir string, at *net.TCPAddr, t *target) (*exec.Cmd, error) {
	cmd, err := startUsher(dir, at, t)
	if err == nil {
		cmd.Env = append(cmd.Env, "USHER_ACCOUNTING="+filepath.Join(dir, "accounting"))
	}
	return cmd, err
}

func startBare(_ string, at *net.TCPAddr, _ *target) (*exec.Cmd, error) {
	return exec.Command(os.Args[0], "-bare", at.String()), nil
}

// dantedRules count and log nothing more than usherRules do.
const dantedRules = `
logoutput: /dev/null
internal: 127.0.0.1 port = %d
external: 127.0.0.1
user.privileged: root
user.unprivileged: nobody
clientmethod: none
socksmethod: username none
client pass { from: 127.0.0.0/8 to: 0/0 }
socks pass { from: 127.0.0.0/8 to: 0/0
	session.max: 100000 }
`

func startDanted(dir string, at *net.TCPAddr, _ *target) (*exec.Cmd, error) {
	rules := filepath.Join(dir, "danted.conf")
	// It asks the system who a user is: its own mounts show it our users there.
	cmd := exec.Command("unshare", "--mount", "sh", "-c", `mount --bind passwd /etc/passwd && mount --bind shadow /etc/shadow && exec danted -f "$0"`, rules)
	cmd.Dir = dir
	return cmd, os.WriteFile(rules, fmt.Appendf(nil, dantedRules, at.Port), 0o644)
}

func startMicrosocks(_ string, at *net.TCPAddr, _ *target) (*exec.Cmd, error) {
	return exec.Command("microsocks", "-i", at.IP.String(), "-p", strconv.Itoa(at.Port)), nil
}

// haproxyConfig forwards to the target, and splices what is much.
const haproxyConfig = `
global
	maxconn 4000
defaults
	mode tcp
	option splice-auto
	timeout connect 5s
	timeout client 1h
	timeout server 1h
listen target
	bind %v
	server target %v
`

func startHAProxy(dir string, at *net.TCPAddr, t *target) (*exec.Cmd, error) {
	config := filepath.Join(dir, "haproxy.cfg")
	return exec.Command("haproxy", "-q", "-db", "-f", config), os.WriteFile(config, fmt.Appendf(nil, haproxyConfig, at, t.addr), 0o644)
}
