package admin_test

import (
	"testing"
	"testing/synctest"
	"time"

	"usher/proxy/admin"
)

const ttl = 10 * time.Second

// check asks now, with the process listening and not draining unless told otherwise.
func check(t *testing.T, r *admin.Readiness, limited, ready bool, want string) {
	t.Helper()
	if got := r.Check(time.Now(), limited, ready); got != want {
		t.Fatalf("limited=%v ready=%v: reason %q, want %q", limited, ready, got, want)
	}
}

func TestReadyWhenListening(t *testing.T) {
	r := admin.NewReadiness(time.Now(), ttl)
	check(t, r, false, true, admin.Starting)
	r.Listening()
	check(t, r, false, true, "")
}

func TestReadyWithoutStoreWhenNothingIsLimited(t *testing.T) {
	r := admin.NewReadiness(time.Now(), ttl)
	r.Listening()
	check(t, r, false, false, "")
	// A reload that brings the first limit does not take it back.
	check(t, r, true, false, "")
}

func TestReadyOnceTheStoreWas(t *testing.T) {
	r := admin.NewReadiness(time.Now(), ttl)
	r.Listening()
	check(t, r, true, false, admin.StorePending)
	check(t, r, true, true, "")
	check(t, r, true, false, "") // latched
}

func TestReadyAfterTwoTTL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := admin.NewReadiness(time.Now(), ttl)
		r.Listening()
		check(t, r, true, false, admin.StorePending)
		time.Sleep(2*ttl - 1)
		check(t, r, true, false, admin.StorePending)
		time.Sleep(time.Nanosecond)
		check(t, r, true, false, "")
	})
}

func TestDrainingWins(t *testing.T) {
	r := admin.NewReadiness(time.Now(), ttl)
	r.Listening()
	check(t, r, false, true, "")
	r.Draining()
	check(t, r, false, true, admin.Draining)
}

func TestDrainedCanBeTakenBack(t *testing.T) {
	r := admin.NewReadiness(time.Now(), ttl)
	r.Missing("no rules")
	check(t, r, false, true, "no rules")
	r.Drained(true)
	check(t, r, false, true, admin.Drained)
	r.Listening()
	check(t, r, false, true, admin.Drained)
	r.Drained(false)
	check(t, r, false, true, "")
	r.Drained(true)
	r.Draining()
	check(t, r, false, true, admin.Draining)
}
