// Command login measures how long a login takes, alone and beside a flood of wrong
// passwords from many addresses, and a session without a login beside the same flood.
//
//	go -C integration run ./bench/login -sources 30 -each 8 -logins 100 -cost 10
//
// It builds usher, and starts one on loopback. Each honest login has a name and an address
// of its own, because Usher remembers a password that was right.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/crypto/bcrypt"
)

var (
	sources = flag.Int("sources", 30, "addresses that flood, 1 to 250")
	each    = flag.Int("each", 8, "logins of each at a time")
	logins  = flag.Int("logins", 100, "honest logins that are measured, 1 to 10000")
	cost    = flag.Int("cost", 10, "of bcrypt")
)

const password = "secret"

// rules let clients at 127.2.0.0/16 in without a login.
const rules = `socksmethod: username none
client pass { from: 127.2.0.0/16 to: 0/0 socksmethod: none }
client pass { from: 127.0.0.0/8 to: 0/0 socksmethod: username }
socks pass { from: 127.0.0.0/8 to: 127.0.0.0/8 }
`

func main() {
	flag.Parse()
	if err := measure(); err != nil {
		fmt.Fprintln(os.Stderr, "login:", err)
		os.Exit(1)
	}
}

func measure() error {
	dir, err := os.MkdirTemp("", "login")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	target, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer target.Close()
	go discard(target)
	proxy, stop, err := start(dir)
	if err != nil {
		return err
	}
	defer stop()
	fmt.Printf("bcrypt of cost %d, %d logins each\n\tp50\tp99\n", *cost, *logins)
	row := func(name string, first int, network byte, user string) error {
		var took []time.Duration
		for i := first; i < first+*logins; i++ {
			c := client{net.IPv4(127, network, byte(i>>8), byte(i)), user, password, proxy, target.Addr().(*net.TCPAddr)}
			if user != "" {
				c.user = fmt.Sprintf("%s%d", user, i)
			}
			began := time.Now()
			if err := c.connect(); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			took = append(took, time.Since(began))
		}
		slices.Sort(took)
		at := func(share float64) time.Duration {
			return took[int(share*float64(len(took)-1))].Round(100 * time.Microsecond)
		}
		fmt.Printf("%s\t%v\t%v\n", name, at(0.5), at(0.99))
		return nil
	}
	if err := errors.Join(row("without a login", 0, 2, ""), row("a login", 0, 3, "honest")); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	var flood sync.WaitGroup
	for i := range *sources * *each {
		c := client{net.IPv4(127, 4, 0, byte(1+i%*sources)), "honest0", "guess", proxy, target.Addr().(*net.TCPAddr)}
		flood.Go(func() {
			for ctx.Err() == nil {
				_ = c.connect() // it is refused
			}
		})
	}
	time.Sleep(3 * time.Second) // until each of them has failed once
	err = errors.Join(row("without a login, beside the flood", *logins, 2, ""), row("a login, beside the flood", *logins, 3, "honest"))
	cancel()
	flood.Wait()
	return err
}

// start builds and starts usher, and waits until it listens.
func start(dir string) (addr string, stop func(), err error) {
	hash, err := bcrypt.GenerateFromPassword([]byte(password), *cost)
	if err != nil {
		return "", nil, err
	}
	var users strings.Builder
	for i := range 2 * *logins {
		fmt.Fprintf(&users, "honest%d:%s\n", i, hash)
	}
	file := func(name string) string { return filepath.Join(dir, name) }
	err = errors.Join(os.WriteFile(file("users"), []byte(users.String()), 0o600), os.WriteFile(file("sockd.conf"), []byte(rules), 0o600))
	module, failed := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "usher").Output()
	if err = errors.Join(err, failed); err != nil {
		return "", nil, err
	}
	build := exec.Command("go", "build", "-o", file("usher"), "./cmd/usher")
	build.Dir, build.Stderr = strings.TrimSpace(string(module)), os.Stderr
	if err := build.Run(); err != nil {
		return "", nil, fmt.Errorf("building usher: %w", err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	addr = ln.Addr().String()
	ln.Close()
	cmd := exec.Command(file("usher"), "serve")
	cmd.Env = append(os.Environ(), "USHER_LISTEN="+addr, "USHER_ADMIN_LISTEN=off", "USHER_CONFIG="+file("sockd.conf"), "USHER_USERS_FILE="+file("users"), "USHER_AUTH_FAILURES=0")
	if err := cmd.Start(); err != nil {
		return "", nil, err
	}
	stop = func() {
		_ = cmd.Process.Signal(syscall.SIGKILL)
		_ = cmd.Wait() // it was killed
	}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			return addr, stop, conn.Close()
		}
		if time.Now().After(end) {
			stop()
			return "", nil, fmt.Errorf("usher does not listen: %w", err)
		}
	}
}

func discard(ln net.Listener) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		c.Close()
	}
}

// client is one SOCKS 5 client. user is "" for no login.
type client struct {
	from           net.IP
	user, password string
	proxy          string
	target         *net.TCPAddr
}

// connect opens a session and closes it.
func (c client) connect() error {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: c.from}}
	conn, err := d.Dial("tcp", c.proxy)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return err
	}
	ask := func(request, want []byte) error {
		if _, err := conn.Write(request); err != nil {
			return err
		}
		got := make([]byte, len(want))
		if _, err := io.ReadFull(conn, got); err != nil {
			return err
		}
		if !slices.Equal(got, want) {
			return fmt.Errorf("answer % x, want % x", got, want)
		}
		return nil
	}
	if c.user == "" {
		err = ask([]byte{5, 1, 0}, []byte{5, 0})
	} else if err = ask([]byte{5, 1, 2}, []byte{5, 2}); err == nil {
		login := append([]byte{1, byte(len(c.user))}, c.user...)
		err = ask(append(append(login, byte(len(c.password))), c.password...), []byte{1, 0})
	}
	if err != nil {
		return err
	}
	request := append([]byte{5, 1, 0, 1}, c.target.IP.To4()...)
	return ask(append(request, byte(c.target.Port>>8), byte(c.target.Port)), []byte{5, 0, 0, 1})
}
