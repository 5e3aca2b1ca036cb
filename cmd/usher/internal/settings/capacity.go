package settings

import (
	"cmp"
	"math"
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/KimMachineGun/automemlimit/memlimit"

	"usher/proxy"
	"usher/proxy/admin"
)

// The resources of sessions, which docs/deploy.md lists, too.
const (
	sessionDescriptors = 2        // of a place: the client's and the target's
	lookupDescriptors  = 3        // of a lookup: one for IPv4, one for IPv6, one more while no server answers
	pipeDescriptors    = 2        // of a spliced direction
	otherDescriptors   = 32       // log, store, listeners, the runtime's own
	sessionMemory      = 64 << 10 // of a place, with the kernel's buffers while it moves data
	negotiatorMemory   = 8 << 10  // of a client that negotiates
	pipeMemory         = 1 << 20  // of a spliced direction whose reader has stopped
	hashMemory         = 64 << 20 // of password hashes, see users.HashQueue
)

// Capacity is how much the process serves at a time. It follows from the number of
// descriptors and from the memory that it may use.
type Capacity struct {
	Descriptors int    // math.MaxInt32: no limit that matters
	Memory      uint64 // bytes; 0: not known

	Sessions int    // proxy.Options.MaxSessions
	Stalled  uint64 // bytes that a session takes at most, see stalled; 0: not known
	Buffered int64  // proxy.Options.MaxBuffered

	Negotiating int // proxy.Options.MaxNegotiating
	Lookups     int // proxy.Options.MaxLookups
	Pipes       int // proxy.Options.MaxPipes

	sharable uint64 // bytes of Memory without those for hashes
}

// Capacity returns the capacity of this process.
func (cfg Config) Capacity() Capacity {
	c := cfg.capacity(descriptors(), memory())
	c.Stalled = stalled("/proc/sys/net/ipv4/")
	c.Buffered = c.buffered()
	return c
}

// Reserve returns the descriptors that are kept for everything but sessions: the
// admin listener, lookups, pipes, clients that negotiate when all places are taken, and
// the rest of the process.
func (c Capacity) Reserve() int {
	reserve := otherDescriptors + admin.MaxConnections + lookupDescriptors*c.Lookups + pipeDescriptors*c.Pipes + proxy.MinNegotiating(c.Descriptors/sessionDescriptors)
	return min(reserve, c.Descriptors/2)
}

// Needed returns how many descriptors are used when all places are taken.
func (c Capacity) Needed() int { return sessionDescriptors*c.Sessions + c.Reserve() }

// capacity returns the capacity of a process with this many descriptors and this much
// memory. Half of the memory is for sessions that have sent their request, an eighth for
// clients that negotiate, and an eighth for pipes. With a users file, the memory for
// hashes is subtracted first.
func (cfg Config) capacity(descriptors int, memory uint64) Capacity {
	c := Capacity{Descriptors: descriptors, Memory: memory, Lookups: min(max(descriptors/48, 1), 85), Pipes: min(max(descriptors/32, 1), 64)}
	if cfg.UsersFile != "" {
		memory -= min(hashMemory, memory/2)
	}
	c.sharable = memory
	byMemory := func(part, each uint64) int {
		if memory == 0 {
			return math.MaxInt32
		}
		return int(min(memory/part/each, math.MaxInt32))
	}
	sessions := min((descriptors-c.Reserve())/sessionDescriptors, byMemory(2, sessionMemory))
	c.Sessions = cmp.Or(cfg.Sessions, max(sessions, 1))
	negotiating := min(descriptors/4, mostNegotiating, byMemory(8, negotiatorMemory))
	c.Negotiating = cmp.Or(cfg.Negotiating, max(negotiating, 1))
	c.Pipes = min(c.Pipes, max(byMemory(8, pipeMemory), 1))
	return c
}

// buffered returns how much the kernel may buffer for all sessions: half of the memory.
// It is 0, which is no bound, if the settings of the kernel bound this anyway, or if
// the memory is not known.
func (c Capacity) buffered() int64 {
	if c.Stalled > 0 && uint64(c.Sessions)*c.Stalled <= c.Memory/8*5 {
		return 0
	}
	return int64(min(c.sharable/2, math.MaxInt64))
}

// stalled returns how much the kernel buffers at most for a session whose client and
// target send and do not read: what it received and what it has to send, on two
// connections. 0 is not known.
func stalled(sysctls string) uint64 {
	var most uint64
	for _, name := range []string{"tcp_rmem", "tcp_wmem"} {
		text, err := os.ReadFile(sysctls + name)
		fields := strings.Fields(string(text)) // least, first, most
		if err != nil || len(fields) != 3 {
			return 0
		}
		n, err := strconv.ParseUint(fields[2], 10, 32)
		if err != nil {
			return 0
		}
		most += 2 * n
	}
	return most
}

// mostNegotiating caps the default of MaxNegotiating. A silent client takes about
// 7 KB, so that this many take 120 MB. Where the process may open a million
// descriptors, a quarter of them would take 1.9 GB.
const mostNegotiating = 16384

// descriptors returns how many file descriptors the process may open. The Go
// runtime raises the soft limit to the hard one before main starts.
func descriptors() int {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil || limit.Cur > math.MaxInt32 {
		return math.MaxInt32 // no limit that matters
	}
	return int(limit.Cur)
}

// memory returns how many bytes the process may use: the limit of its container, or
// what the machine has. 0 is not known.
func memory() uint64 {
	if limit, err := memlimit.FromCgroup(); err == nil && limit > 0 {
		return limit
	}
	total, err := memlimit.FromSystem()
	if err != nil {
		return 0
	}
	return total
}
