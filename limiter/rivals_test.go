package limiter_test

import (
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"usher/limiter"
)

// Replicas with other settings, among faults in which their shorter TTL must not
// count for the sessions of the longer one.

// shorter is a TTL that the tests' other replicas do not have.
func shorter(by time.Duration) func(*limiter.Options) {
	return func(o *limiter.Options) { o.TTL = ttl / by }
}

// keptOut waits until l has met rivals.
func keptOut(t *testing.T, l *limiter.Limiter) {
	t.Helper()
	time.Sleep(ttl / 2)
	if l.Status().Mismatch == "" {
		t.Fatalf("the other settings are let in: %+v", l.Status())
	}
}

// untilJoined waits for the next join that is sent over way.
func untilJoined(way *link) {
	for joins := way.joins.Load(); way.joins.Load() == joins; {
		time.Sleep(ttl / 10000)
	}
}

// Who waits because others have other settings does not take the place of their
// data when it is lost: their sessions live on up to their own fence.
func TestOtherSettingsBearNoLostData(t *testing.T) {
	for name, back := range map[string]bool{"the others come back": true, "the others are away": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				way := newLink()
				other := way.fork()
				a := start(t, way, strict)
				mature(t, a)
				g := admit(t, a, 1)
				b := start(t, other, strict, shorter(10))
				keptOut(t, b)
				time.Sleep(ttl / 20) // between two heartbeats of a: b would be first
				way.data.Flush()
				if !back {
					way.down()
					notBoth(t, b, g)
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

// TestYoungDataOfRivals: they bore the data again, and left; who joins it then
// watches it for their time.
func TestYoungDataOfRivals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		way1 := newLink()
		way2, other := way1.fork(), way1.fork()
		first, second := start(t, way1, strict), start(t, way2, strict)
		mature(t, first, second)
		g := admit(t, second, 1)
		b := start(t, other, strict, shorter(10))
		keptOut(t, b)
		way2.down() // for less than its fence
		way1.data.Flush()
		time.Sleep(ttl / 5)
		if !first.Status().Joined || !first.Status().Recovering || b.Status().Joined {
			t.Fatalf("first %+v, b %+v", first.Status(), b.Status())
		}
		stop(t, first)
		notBoth(t, b, g)
		way2.up()
	})
}

// TestLateJoinOfOtherSettings: it was sent before its sender knew of rivals, is
// not mustNotCreate therefore, and bears the data that was lost meanwhile.
func TestLateJoinOfOtherSettings(t *testing.T) {
	for _, cutOff := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			way := newLink()
			other := &spied{link: way.fork()}
			a := start(t, way, strict)
			mature(t, a)
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
			keptOut(t, b)
			if cutOff {
				way.down()
			}
			way.data.Flush()
			again(t, way.data, first)
			notBoth(t, b, g)
			way.up()
		})
	}
}

// TestRivalsComeBack, unseen, and their data is lost again: between two looks, or
// while who looks is cut off itself.
func TestRivalsComeBack(t *testing.T) {
	for name, blind := range map[string]bool{"between two looks": false, "while nobody looks": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				way := newLink()
				other := way.fork()
				a := start(t, way, strict)
				mature(t, a)
				g := admit(t, a, 1)
				b := start(t, other, strict, shorter(5))
				keptOut(t, b)
				way.down()
				way.data.Flush()
				time.Sleep(ttl / 10)
				if blind {
					other.down()
				}
				time.Sleep(ttl * 45 / 100) // just before g's fence
				way.up()
				untilJoined(way)
				if blind {
					time.Sleep(ttl / 4)
					if !g.Valid() || !a.Status().Joined {
						t.Fatal("a is not back")
					}
				}
				way.down()
				way.data.Flush()
				other.up()
				notBoth(t, b, g)
				way.up()
			})
		})
	}
}

// TestWhoIsKeptOutAdmitsNobody, also while the store is away, and by its own
// count neither: as soon as it is away during the next try to join.
func TestWhoIsKeptOutAdmitsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		way := newLink()
		other := way.fork()
		a := start(t, way)
		mature(t, a)
		b := start(t, other, shorter(2), func(o *limiter.Options) { o.AdmitLocally = true })
		keptOut(t, b)
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
				t.Fatal("the status says nothing of others")
			}
		}
		other.up()
	})
}
