package limiter_test

import (
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"usher/limiter"
)

// These tests run replicas with two TTLs under faults. The shorter TTL must not be
// applied to sessions of replicas with the longer one.

// shorter is a TTL that only some replicas of these tests have.
func shorter(by time.Duration) func(*limiter.Options) {
	return func(o *limiter.Options) { o.TTL = ttl / by }
}

// waitMismatch waits until l has met conflicting replicas.
func waitMismatch(t *testing.T, l *limiter.Limiter) {
	t.Helper()
	time.Sleep(ttl / 2)
	if l.Status().Mismatch == "" {
		t.Fatalf("the store lets the other settings in: %+v", l.Status())
	}
}

// upUntilJoined passes requests on again, and waits for the next join over way and for
// what its replica does right after it.
func upUntilJoined(way *link) {
	joins := way.joins.Load()
	way.up()
	for way.joins.Load() == joins {
		time.Sleep(ttl / 10000)
	}
	synctest.Wait()
}

// TestOtherSettingsCreateNoEpoch: a replica that cannot join because of conflicting
// replicas does not create an epoch when their data is lost, because their sessions
// live until their own lease deadline.
func TestOtherSettingsCreateNoEpoch(t *testing.T) {
	for name, back := range map[string]bool{"the others come back": true, "the others are away": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				way := newLink()
				other := way.fork()
				a := start(t, way, strict)
				waitReady(t, a)
				g := admit(t, a, 1)
				b := start(t, other, strict, shorter(10))
				waitMismatch(t, b)
				time.Sleep(ttl / 20) // between two heartbeats of a: b would be first
				way.data.Flush()
				if !back {
					way.down()
					requireOneValid(t, b, g)
					way.up()
					return
				}
				time.Sleep(2 * ttl)
				if !g.Valid() || !a.Status().Joined || b.Status().Joined {
					t.Errorf("after the loss: valid %v, %+v, and the other %+v", g.Valid(), a.Status(), b.Status())
				}
			})
		})
	}
}

// TestRecoveryOfConflictingReplicas: conflicting replicas have created an epoch after a
// loss, and left. A replica that joins it then recovers for as long as their leases
// require.
func TestRecoveryOfConflictingReplicas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		way1 := newLink()
		way2, other := way1.fork(), way1.fork()
		first, second := start(t, way1, strict), start(t, way2, strict)
		waitReady(t, first, second)
		g := admit(t, second, 1)
		b := start(t, other, strict, shorter(10))
		waitMismatch(t, b)
		way2.down() // for less than its lease
		way1.data.Flush()
		time.Sleep(ttl / 5)
		if !first.Status().Joined || !first.Status().Recovering || b.Status().Joined {
			t.Fatalf("first %+v, b %+v", first.Status(), b.Status())
		}
		stop(t, first)
		requireOneValid(t, b, g)
		way2.up()
	})
}

// TestLateJoinOfOtherSettings: a join was sent before its sender knew of conflicting
// replicas. So it may create an epoch. It arrives after the data of the others was
// lost.
func TestLateJoinOfOtherSettings(t *testing.T) {
	for _, cutOff := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			way := newLink()
			other := &spied{link: way.fork()}
			a := start(t, way, strict)
			waitReady(t, a)
			g := admit(t, a, 1)
			var cut atomic.Bool
			other.set(func(op string) (error, error) {
				if op == "join" && !cut.Swap(true) {
					return errCut, nil
				}
				return nil, nil
			})
			b := start(t, other, strict, shorter(10))
			for other.join.Load() == nil {
				time.Sleep(ttl / 1000)
			}
			first := *other.join.Load()
			waitMismatch(t, b)
			if cutOff {
				way.down()
			}
			way.data.Flush()
			again(t, way.data, first)
			requireOneValid(t, b, g)
			way.up()
		})
	}
}

// TestConflictingReplicasComeBack: conflicting replicas come back unnoticed and their
// data is lost again, between two looks of the replica that waits, or while it is cut
// off itself.
func TestConflictingReplicasComeBack(t *testing.T) {
	for name, blind := range map[string]bool{"between two looks": false, "while nobody looks": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				way := newLink()
				other := way.fork()
				a := start(t, way, strict)
				waitReady(t, a)
				g := admit(t, a, 1)
				time.Sleep(ttl / 333) // so that b never looks at the moment at which a joins
				b := start(t, other, strict, shorter(5))
				waitMismatch(t, b)
				way.down()
				way.data.Flush()
				time.Sleep(ttl / 10)
				if blind {
					other.down()
				}
				time.Sleep(ttl * 45 / 100) // just before g's lease deadline
				upUntilJoined(way)
				if blind {
					time.Sleep(ttl / 4)
					if !g.Valid() || !a.Status().Joined {
						t.Fatal("a is not back")
					}
				}
				way.down()
				way.data.Flush()
				other.up()
				requireOneValid(t, b, g)
				way.up()
			})
		})
	}
}

// TestMismatchedReplicaAdmitsNobody: a replica that conflicting replicas keep out
// admits nobody from its next failed attempt to join on, neither locally nor while the
// store cannot be reached.
func TestMismatchedReplicaAdmitsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		way := newLink()
		other := way.fork()
		a := start(t, way)
		waitReady(t, a)
		b := start(t, other, shorter(2), func(o *limiter.Options) { o.AdmitLocally = true })
		waitMismatch(t, b)
		var away atomic.Bool
		other.set(func(op string) (error, error) {
			if away.Store(away.Load() || op == "join"); away.Load() {
				return errCut, nil
			}
			return nil, nil
		})
		for range 20 {
			time.Sleep(ttl / 10)
			if g, err := b.Admit(t.Context(), limitOf(1)); !errors.Is(err, limiter.ErrMismatch) {
				t.Fatalf("%+v, %v", g, err)
			}
			if b.Status().Mismatch == "" {
				t.Fatal("the status does not show the conflicting replicas")
			}
		}
		other.up()
	})
}
