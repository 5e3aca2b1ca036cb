package integration

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"testing"
	"time"
)

// badInputs are what no client should say, in pieces as they are sent.
func badInputs(target string) map[string][]byte {
	good := append([]byte{5, 1, 0}, connectRequest(target)...)
	withName := append([]byte{5, 1, 0}, connectRequest("localhost:80")...)
	inputs := map[string][]byte{
		"HTTP":                    []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
		"TLS":                     {0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3},
		"no methods":              {5, 0},
		"only unknown methods":    {5, 3, 0x80, 0x81, 0xfe},
		"unknown command":         {5, 1, 0, 5, 9, 0, 1, 127, 0, 0, 1, 0, 80},
		"unknown address type":    {5, 1, 0, 5, 1, 0, 9, 127, 0, 0, 1, 0, 80},
		"empty name":              {5, 1, 0, 5, 1, 0, 3, 0, 0, 80},
		"name with a NUL":         append(append([]byte{5, 1, 0, 5, 1, 0, 3, 9}, "a.test\x00bc"...), 0, 80),
		"port 0":                  {5, 1, 0, 5, 1, 0, 1, 127, 0, 0, 1, 0, 0},
		"version changes":         {5, 1, 0, 4, 1, 0, 80, 127, 0, 0, 1, 0},
		"SOCKS4 user without end": append([]byte{4, 1, 0, 80, 127, 0, 0, 1}, bytes.Repeat([]byte{'u'}, 100_000)...),
		"a lot of anything":       bytes.Repeat([]byte{5}, 1<<20),
	}
	for i := range good {
		inputs[fmt.Sprintf("address, first %d bytes", i)] = good[:i]
	}
	for i := range withName {
		inputs[fmt.Sprintf("name, first %d bytes", i)] = withName[:i]
	}
	rnd := rand.New(rand.NewPCG(1928, 1929))
	for i := range 200 {
		junk := make([]byte, rnd.IntN(600))
		for j := range junk {
			junk[j] = byte(rnd.Uint32())
		}
		if i%2 == 0 && len(junk) > 4 {
			copy(junk, []byte{5, 1, 0, 5})
		}
		inputs[fmt.Sprintf("random %d", i)] = junk
	}
	return inputs
}

// leftovers are what a session must not leave behind.
type leftovers struct {
	goroutines, descriptors, procFDs float64
	sessions                         int
	counted                          int64
}

func (r *replica) leftovers(t testing.TB) leftovers {
	t.Helper()
	m, st := r.metrics(t), r.status(t)
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", r.proc.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	return leftovers{
		goroutines:  m.sum("go_goroutines"),
		descriptors: m.sum("process_open_fds"),
		procFDs:     float64(len(fds)),
		sessions:    st.Sessions,
		counted:     st.counted("c1", true) + st.counted("s1", true),
	}
}

// TestBadInputLeavesNothing sends everything that no client should say, in
// three ways, and then looks for what it left.
func TestBadInputLeavesNothing(t *testing.T) {
	w := newWorld(t, options{replicas: 1, rules: func(limited, free endpoint) string {
		return fmt.Sprintf(`
timeout.negotiate: 2
client pass {
	from: 0/0 to: 0/0
	maxsessions: 400
}
socks pass {
	from: 0/0 to: %s
	maxsessions: 5
}`, limited.to())
	}})
	r := w.replicas[0]
	direct := client{proxy: r.socks}
	// What the first sessions leave for good (resolver, pools) is not theirs.
	warm := direct.ask(t, 10, w.limited.String())
	warm.want(t, 5, notAllowed)
	warm.close()
	w.waitIdle()
	before := r.leftovers(t)

	inputs := badInputs(w.limited.String())
	var names []string
	for name := range inputs {
		names = append(names, name)
	}
	ways := map[string]func(net.Conn, []byte){
		"and half-closes": func(c net.Conn, in []byte) {
			c.Write(in)                   //nolint:errcheck // the proxy may have hung up, as it should
			c.(*net.TCPConn).CloseWrite() //nolint:errcheck // likewise
			io.Copy(io.Discard, c)        //nolint:errcheck // likewise
		},
		"and vanishes": func(c net.Conn, in []byte) {
			c.Write(in)                   //nolint:errcheck // likewise
			c.(*net.TCPConn).SetLinger(0) //nolint:errcheck // likewise
		},
		"and waits": func(c net.Conn, in []byte) {
			c.Write(in)            //nolint:errcheck // likewise
			io.Copy(io.Discard, c) //nolint:errcheck // likewise
		},
	}
	for way, send := range ways {
		begin := time.Now()
		together(len(names), func(i int) {
			conn, err := direct.dial()
			if err != nil {
				t.Errorf("%s: %v", names[i], err)
				return
			}
			defer conn.Close()
			send(conn, inputs[names[i]])
			if took := time.Since(begin); took > patience {
				t.Errorf("%s %s: not ended after %v", names[i], way, took)
			}
		})
		t.Logf("%d inputs, each sent %s: %v", len(names), way, time.Since(begin).Round(time.Millisecond))
	}

	eventually(t, patience, func() string {
		after := r.leftovers(t)
		// The scrape itself may have a goroutine or a descriptor more or less.
		if after.sessions != 0 || after.counted != 0 ||
			after.goroutines > before.goroutines+2 || after.descriptors > before.descriptors+1 ||
			after.procFDs > before.procFDs+1 {
			return fmt.Sprintf("before %+v, after %+v", before, after)
		}
		return ""
	})
	direct.ask(t, 12, w.limited.String()).want(t, 5, notAllowed)
}

// TestHandshakeInPieces sends a good handshake byte by byte, and all at once
// with the first bytes for the target behind it.
func TestHandshakeInPieces(t *testing.T) {
	w := newWorld(t, options{replicas: 1})
	all := append([]byte{5, 1, 0}, connectRequest(w.limited.String())...)
	all = append(all, "early bytes"...)
	for name, size := range map[string]int{"byte by byte": 1, "three at a time": 3, "at once": len(all)} {
		conn, err := w.proxy.dial()
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		for at := 0; at < len(all); at += size {
			if _, err := conn.Write(all[at:min(at+size, len(all))]); err != nil {
				t.Fatal(err)
			}
		}
		var method [2]byte
		if _, err := io.ReadFull(conn, method[:]); err != nil || method != [2]byte{5, 0} {
			t.Fatalf("%s: method reply % x %v", name, method, err)
		}
		if a := readReply(conn); a.reply != granted {
			t.Fatalf("%s: reply %d %v", name, a.reply, a.err)
		}
		echoed := make([]byte, len("early bytes"))
		if _, err := io.ReadFull(conn, echoed); err != nil || string(echoed) != "early bytes" {
			t.Fatalf("%s: %q %v", name, echoed, err)
		}
		// Half a close goes through, and so does the answer after it.
		if _, err := io.WriteString(conn, "last words"); err != nil {
			t.Fatal(err)
		}
		if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if rest, err := io.ReadAll(conn); err != nil || string(rest) != "last words" {
			t.Fatalf("%s: after a half-close %q %v", name, rest, err)
		}
	}
}
