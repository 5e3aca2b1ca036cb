package users

import (
	"runtime"
	"strings"
	"testing"
	"time"
)

// Few yescrypt hashes are computed at a time, as each takes much memory: one more waits.
func TestYescryptMemoryIsBounded(t *testing.T) {
	hash, err := acceptYescrypt(vectors["yescrypt1"])
	if err != nil {
		t.Fatal(err)
	}
	for range maxYescrypts {
		yescrypts <- struct{}{}
	}
	matches := make(chan bool)
	go func() { matches <- hash.MatchesPassword("open-sesame") }()
	stacks := make([]byte, 1<<20)
	for deadline := time.Now().Add(time.Minute); ; runtime.Gosched() {
		all := string(stacks[:runtime.Stack(stacks, true)])
		if strings.Contains(all, "[chan send]:\nusher/proxy/users.yescryptHash.MatchesPassword") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("no hash waits:\n%s", all)
		}
	}
	for range maxYescrypts {
		<-yescrypts
	}
	if !<-matches {
		t.Error("the right password is wrong")
	}
	if n := len(yescrypts); n != 0 {
		t.Errorf("%d hashes are still counted", n)
	}
}
