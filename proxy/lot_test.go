package proxy

import "testing"

// TestLot: who is put out is drawn by lot, however long they have been in.
func TestLot(t *testing.T) {
	const most, rounds = 256, 256 * 200
	n := negotiators{most: most}
	for range most {
		if out := n.enter(new(session)); out != nil {
			t.Fatal("somebody is put out where there is room")
		}
	}
	newest, next := new(session), 0
	n.enter(newest)
	for range rounds {
		s := new(session)
		if out := n.enter(s); out == newest {
			next++
		}
		newest = s
		if len(n.all) != most {
			t.Fatalf("%d are in, want %d", len(n.all), most)
		}
	}
	if next < 100 || next > 300 { // 200, give or take 14
		t.Errorf("the newest was the next to go in %d of %d rounds, want about one of %d", next, rounds, most)
	}
	for _, s := range append([]*session{new(session)}, n.all...) { // the first was never in
		n.leave(s)
		n.leave(s) // again: it was put out, and ends
	}
	if len(n.all) != 0 {
		t.Errorf("%d are left", len(n.all))
	}
}
