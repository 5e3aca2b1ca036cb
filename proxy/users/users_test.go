package users

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	htpasswd "github.com/tg123/go-htpasswd"
)

// vectors are hashes of "open-sesame" by openssl passwd and by crypt(3).
var vectors = map[string]string{
	"yescrypt":  "$y$j9T$6Nc/RPt61k0EW40cU721V.$DRXDffMTg2vzhxHRdYiPnZDTgPAyTOi96e/SNLGivw3", // this and the next two: mkpasswd -m yescrypt
	"yescrypt1": "$y$j75$aZx2GmgCHuiaMhnJigTe.0$1XU48Vk9JNsJjwSQ.SORSu42.K4NSX4OPJ2GcA4faWA",
	"yescrypt6": "$y$jAT$v7le42K6DlgkmZkUo9Gyn.$7fD4/KTR/yfV0iDTJmaLtyy0uWUlXzCokTSrSYD8Ri2",
	"sha512":    "$6$saltsalt$IIO3tFf9acEh.KPN8fdlOw2L4J9tP9mcGB/zidm03nlDYowG0EQh194NRIhnrsreO3tSs2RIuGbdYI1mdJPS50",
	"rounds":    "$6$rounds=1000$saltsalt$DrjWAO/MPesqcpu8YFKGSFbzMeH6hOVfdV5i4kx7.OoZAZoHcjYsZmqGdmGY4v81mC7lKO/0Bf2HPb4f8fHJI0",
	"sha256":    "$5$saltsalt$NWbjf9l/JYa5lKZwUXbDrYs.7gmSTsn9pl1o0TRnjc6",
	"apr1":      "$apr1$saltsalt$KlYmbxGi6RFqoNneyFPyH/",
	"md5crypt":  "$1$saltsalt$Omjcn0qVxmemoOaJVnpUW.",
	"bcrypt":    "$2b$05$abcdefghijklmnopqrstuutXu9KzOt.1yBoZUeFWoT/914/JfszCO",
}

func load(t *testing.T, text string) (*Checker, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "users")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return Load(path)
}

func TestEveryForm(t *testing.T) {
	text := "# the staff\n\n"
	for user, hash := range vectors {
		text += user + ":" + hash + "\r\n"
	}
	c, err := load(t, text)
	if err != nil || c.Len() != len(vectors) {
		t.Fatalf("%d users, %v; want %d", c.Len(), err, len(vectors))
	}
	for user := range vectors {
		for password, want := range map[string]bool{"open-sesame": true, "open-sesamE": false, "": false} {
			if ok := c.Check(user, password); ok != want {
				t.Errorf("%s with %q: %v, want %v", user, password, ok, want)
			}
		}
	}
	for _, user := range []string{"", "nobody", "SHA512", "#", strings.Repeat("x", 255)} {
		if c.Check(user, "open-sesame") {
			t.Errorf("unknown user %q is let in", user)
		}
	}
}

func TestZeroCheckerKnowsNobody(t *testing.T) {
	if c := new(Checker); c.Check("fred", "x") || c.Remembers("fred", "x") {
		t.Error("fred is let in")
	}
}

func TestBadLinesAreAllNamed(t *testing.T) {
	lines := []struct{ line, want string }{
		{"fred:" + vectors["apr1"], ""},
		{"nocolon", "no colon"},
		{":" + vectors["apr1"], "empty"},
		{"plain:open-sesame", "plain text"},
		{"sha1:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=", "a SHA-1 hash without salt, which is not accepted"},
		{"gost:$gy$j9T$cDBelGh4x8nZEyvYHS5gh1$jNFex65gw897KHOvMkOJerIGsOfZb7Cj0gqCMlcawuD", "a gost-yescrypt hash, which is not accepted"},
		{"large:$y$jBT$ZB5Xj9wn8MRDX7IiBivAF.$rSW80haBYJt9QCrOr7t2AFQUXBlWxVCsmaFNg6RUgAA", "needs 64 MiB of memory, which is above 32"},
		{"huge:" + strings.Replace(vectors["yescrypt"], "$j9T$", "$jFT$", 1), "needs 1024 MiB"},
		{"flags:" + strings.Replace(vectors["yescrypt"], "$j9T$", "$/9T$", 1), "parameters \"/9T\" are not supported"},
		{"parallel:" + strings.Replace(vectors["yescrypt"], "$j9T$", "$j9T/.$", 1), "parameters \"j9T/.\" are not supported"},
		{"tiny:" + strings.Replace(vectors["yescrypt"], "$j9T$", "$j.T$", 1), "not supported"},
		{"salt:$y$j9T$a.zzz$tnSYvahCwPBHKZUspmcxMfb0.WiB9W.zEaKlOBL35rC", "yescrypt hash is malformed"},
		{"half:$y$j9T$F5Jx5fExrKuPp53xLKQ..1", "yescrypt hash is malformed"},
		{"daemon:*", "locked"},
		{"system:!*", "locked"},
		{"crypt:rqXexS6ZhobKA", "not accepted"},
		{"nothing:", "plain text"},
		{"fred:" + vectors["apr1"], "already on line 1"},
		{"short:$2y$05$abc", "bcrypt hash is malformed"},
		{"dear:" + strings.Replace(vectors["bcrypt"], "$05$", "$31$", 1), "cost 31"},
		{"cheap:" + strings.Replace(vectors["bcrypt"], "$05$", "$03$", 1), "malformed"},
		{"slow:" + strings.Replace(vectors["rounds"], "=1000", "=999999999", 1), "rounds=999999999"},
		{"few:" + strings.Replace(vectors["rounds"], "=1000", "=10", 1), "rounds=10"},
		{"zeros:" + strings.Replace(vectors["rounds"], "=1000", "=001000", 1), "rounds=001000"},
		{"panics:$6$rounds=x$saltsalt$abc", "SHA-512-crypt hash is malformed"},
		{"nosalt:$5$nosalt", "malformed"},
		{"md5:$apr1$$abc", "malformed"},
		{strings.Repeat("x", 256) + ":" + vectors["apr1"], "longer than 255"},
		{"bell\a:" + vectors["apr1"], "control characters"},
		{"latin\xe9:" + vectors["apr1"], "not UTF-8"},
	}
	var text strings.Builder
	want := map[int]string{}
	for i, l := range lines {
		text.WriteString(l.line + "\n")
		if l.want != "" {
			want[i+1] = l.want
		}
	}
	c, err := load(t, text.String())
	joined, ok := err.(interface{ Unwrap() []error })
	if c != nil || !ok {
		t.Fatalf("%v, %v; want one error per bad line", c, err)
	}
	for _, err := range joined.Unwrap() {
		var line *LineError
		if !errors.As(err, &line) || !strings.Contains(line.What, want[line.Line]) || line.Remedy == "" {
			t.Errorf("%v: want %q and a remedy", err, want[line.Line])
			continue
		}
		if strings.Contains(err.Error(), "saltsalt") || strings.Contains(err.Error(), "open-sesame") {
			t.Errorf("%v tells the hash", err)
		}
		delete(want, line.Line)
	}
	if len(want) > 0 {
		t.Errorf("not reported: %v", want)
	}
}

func TestMissingFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "absent")
	if _, err := Load(path); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), path) {
		t.Errorf("%v, want one that names %s", err, path)
	}
}

// probe is a hash that counts how often it is computed.
type probe struct{ computed *int }

func (p probe) MatchesPassword(password string) bool {
	*p.computed++
	return password == "sesame"
}

// For an unknown user, the same hash is computed each time, as for a known one. The
// user is refused even if the hash happens to match.
func TestUnknownUserCostsTheSame(t *testing.T) {
	c := &Checker{memory: newMemory()}
	counts := make([]int, 3)
	for i := range counts {
		c.decoys = append(c.decoys, decoy{key: digestOf(strconv.Itoa(i)), hash: probe{&counts[i]}})
	}
	for range 8 {
		if c.Check("mallory", "sesame") || c.Remembers("mallory", "sesame") {
			t.Fatal("an unknown user is let in")
		}
	}
	slices.Sort(counts)
	if !slices.Equal(counts, []int{0, 0, 8}) {
		t.Errorf("hashes computed %v, want 8 of one", counts)
	}
}

// Replicas and restarted processes agree on whose hash stands in for an unknown user's.
// An additional line takes over its share and changes no other.
func TestUnknownUserCostsTheSameEverywhere(t *testing.T) {
	line := func(user, salt string) string {
		return user + ":" + strings.Replace(vectors["apr1"], "saltsalt", salt, 1) + "\n"
	}
	text, others, reversed := "", "", ""
	for _, user := range []string{"a", "b", "c", "d"} {
		text += line(user, "salt"+user)
		reversed = line(user, "salt"+user) + reversed
		others += line(user, "pepper"+user)
	}
	checker := func(text string) *Checker {
		c, err := load(t, text)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	one, two, grown, strange := checker(text), checker(reversed), checker(text+line("e", "salte")), checker(others)
	added := grown.decoys[4].key
	const names = 1000
	var moved, differ int
	chosen := map[digest]int{}
	for i := range names {
		name := "mallory" + strconv.Itoa(i)
		key := one.decoyFor(name).key
		chosen[key]++
		if two.decoyFor(name).key != key {
			t.Fatalf("two replicas hash for %s like different users", name)
		}
		switch grown.decoyFor(name).key {
		case key:
		case added:
			moved++
		default:
			t.Fatalf("%s moved to a line that was there before", name)
		}
		if slices.Index(keys(one), key) != slices.Index(keys(strange), strange.decoyFor(name).key) {
			differ++
		}
	}
	if len(chosen) != 4 || moved == 0 || moved > names/3 || differ < names/2 {
		t.Errorf("%d of 4 lines stand in, a line more moves %d of %d names, other salts %d", len(chosen), moved, names, differ)
	}
}

func keys(c *Checker) (all []digest) {
	for _, d := range c.decoys {
		all = append(all, d.key)
	}
	return all
}

func TestRightPasswordsAreRememberedForAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &Checker{hashes: map[string]htpasswd.EncodedPasswd{"fred": probe{new(int)}}, memory: newMemory()}
		for _, wrong := range []string{"", "guess"} {
			if c.Check("fred", wrong) || c.Remembers("fred", wrong) {
				t.Errorf("%q is right", wrong)
			}
		}
		if c.Remembers("fred", "sesame") {
			t.Error("remembered before it was checked")
		}
		if !c.Check("fred", "sesame") {
			t.Error("the right password is wrong")
		}
		for _, pair := range [][2]string{{"fre", "dsesame"}, {"freds", "esame"}, {"fred", "sesam"}, {"", "fredsesame"}} {
			if c.Remembers(pair[0], pair[1]) {
				t.Errorf("%q is taken for another pair", pair)
			}
		}
		time.Sleep(remember - time.Nanosecond)
		if !c.Remembers("fred", "sesame") {
			t.Error("forgotten too early")
		}
		time.Sleep(time.Nanosecond)
		if c.Remembers("fred", "sesame") {
			t.Error("remembered for longer than a minute")
		}
	})
}

// A stolen memory is of no use for other processes or other files.
func TestMemoryIsKeyed(t *testing.T) {
	a, b := newMemory(), newMemory()
	if a.mark("fred", "sesame") == b.mark("fred", "sesame") {
		t.Error("two memories have one key")
	}
}

func TestMemoryIsBounded(t *testing.T) {
	m := newMemory()
	for i := range maxRemembered + 10 {
		m.add("fred", strconv.Itoa(i))
	}
	if n := m.until.Len(); n != maxRemembered {
		t.Errorf("%d pairs remembered, want %d", n, maxRemembered)
	}
}

// A file of another kind has a mistake in each line. The first hundred are
// reported, and that there are more.
func TestMistakesAreBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "users")
	if err := os.WriteFile(path, []byte(strings.Repeat("nonsense\n", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	_, usersErr := Load(path)
	_, groupsErr := LoadGroups(path)
	for _, err := range []error{usersErr, groupsErr} {
		lines := strings.Split(fmt.Sprint(err), "\n")
		if len(lines) != 101 || !strings.Contains(lines[100], ":101: there are more mistakes from here on") {
			t.Errorf("%d lines, the last is %q", len(lines), lines[len(lines)-1])
		}
	}
}
