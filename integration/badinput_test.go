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
	outage                           bool // a connection to the store may be missing
}

func (r *replica) leftovers(t testing.TB) leftovers {
	t.Helper()
	m, st := r.metrics(t), r.status(t)
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", r.proc.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	var counted int64
	for _, l := range st.Rules.Limits {
		counted += l.Sessions
	}
	return leftovers{
		goroutines:  m.sum("go_goroutines"),
		descriptors: m.sum("process_open_fds"),
		procFDs:     float64(len(fds)),
		sessions:    st.Sessions,
		counted:     counted,
		outage:      st.Store.Failure != "",
	}
}

// idle returns the least that the replica has in a number of readings: what
// asks it just then, a balancer's check or the scrape, holds more for a moment.
func (r *replica) idle(t testing.TB) leftovers {
	t.Helper()
	var least leftovers
	readings := 0
	eventually(t, 8*patience, func() string {
		now := r.leftovers(t)
		switch {
		case now.outage:
			return r.name + " has an outage of its store"
		case readings == 0:
			least = now
		}
		least.goroutines = min(least.goroutines, now.goroutines)
		least.descriptors = min(least.descriptors, now.descriptors)
		least.procFDs = min(least.procFDs, now.procFDs)
		if readings++; readings < 30 {
			return "too few readings"
		}
		return ""
	})
	return least
}

// waitIdle waits until the replica has no more than before. It is patient: how
// many goroutines a scrape counts depends on which of its own have ended, and on a
// busy machine few readings are as low as the least of those before.
func (r *replica) waitIdle(t testing.TB, before leftovers) {
	t.Helper()
	eventually(t, 8*patience, func() string {
		after := r.leftovers(t)
		if after.goroutines > before.goroutines || after.descriptors > before.descriptors || after.procFDs > before.procFDs {
			return fmt.Sprintf("%s: before %+v, after %+v", r.name, before, after)
		}
		return ""
	})
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
	before := r.idle(t)

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
		if after := r.leftovers(t); after.sessions != 0 || after.counted != 0 {
			return fmt.Sprintf("%+v", after)
		}
		return ""
	})
	r.waitIdle(t, before)
	direct.ask(t, 12, w.limited.String()).want(t, 5, notAllowed)
}
