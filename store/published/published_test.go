package published_test

import (
	"crypto/ed25519"
	"errors"
	"strings"
	"testing"
	"time"

	"usher/store/published"
)

func keyPair(t *testing.T) (ed25519.PrivateKey, []ed25519.PublicKey) {
	t.Helper()
	private, public, err := published.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	key, err := published.ParsePrivateKey(private)
	keys, err2 := published.ParsePublicKeys(public)
	if err := errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	return key, keys
}

// Everything that a generation says is signed: nothing of it can be changed, and no
// generation can be made into another one.
func TestSignatures(t *testing.T) {
	key, keys := keyPair(t)
	other, otherKeys := keyPair(t)
	text := published.New(7, "web", "c1x", "why\nso", "pass\n", time.Unix(1e9, 0)).Sign(key)
	if err := text.Verify(keys); err != nil {
		t.Fatal(err)
	}
	if err := text.Verify(append(otherKeys, keys...)); err != nil {
		t.Error("one of several keys:", err)
	}
	for name, change := range map[string]func(*published.Text){
		"number":      func(t *published.Text) { t.Number = 8 },
		"cluster":     func(t *published.Text) { t.Cluster = "mail" },
		"text":        func(t *published.Text) { t.Rules = "pass all\n" },
		"message":     func(t *published.Text) { t.Message = "why" },
		"time":        func(t *published.Text) { t.When = t.When.Add(time.Second) },
		"moved lines": func(t *published.Text) { t.Message, t.Rules = "why", "so\npass\n" },
		"other key":   func(t *published.Text) { *t = t.Sign(other) },
		"truncated":   func(t *published.Text) { t.Signature = t.Signature[:63] },
	} {
		changed := text
		change(&changed)
		if err := changed.Verify(keys); !errors.Is(err, published.ErrBadSignature) {
			t.Errorf("%s: %v", name, err)
		}
	}
	text.Signature = nil
	if err := text.Verify(keys); !errors.Is(err, published.ErrUnsigned) {
		t.Error(err)
	}
	if err := text.Verify(nil); err != nil {
		t.Error("without a key:", err)
	}
}

func TestKeyFiles(t *testing.T) {
	private, public, err := published.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	const rsa = "-----BEGIN PUBLIC KEY-----\nMFwwDQYJKoZIhvcNAQEBBQADSwAwSAJBALyctF8m2vwrlGVaEJdSQsFnz1YkIVmf\nsV5HNlXkg9Vym2fSgLVgfl4wXpqL3IZ7LlcqZB0QJ0pVUaxXpTT7cZUCAwEAAQ==\n-----END PUBLIC KEY-----\n"
	for _, c := range []struct{ text, want string }{
		{"", "no public key"},
		{string(private), "this is the private key"},
		{string(public) + string(private), "this is the private key"},
		{rsa, "public key"},
		{strings.Replace(string(public), "MC", "AA", 1), "public key"},
	} {
		if _, err := published.ParsePublicKeys([]byte(c.text)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v, want %q", c.text, err, c.want)
		}
	}
	if keys, err := published.ParsePublicKeys([]byte("# old\n" + string(public) + "# new\n" + string(public))); err != nil || len(keys) != 2 {
		t.Error(keys, err)
	}
	for _, text := range []string{"", string(public), strings.Replace(string(private), "MC", "AA", 1)} {
		if _, err := published.ParsePrivateKey([]byte(text)); err == nil {
			t.Errorf("%q is taken for a private key", text)
		}
	}
}

func TestCheck(t *testing.T) {
	good := published.New(7, "web", "c1x", "why", "pass\n", time.Now())
	if err := good.Check("web"); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*published.Text){
		"no number of": func(t *published.Text) { t.Number = 0 },
		"is no number": func(t *published.Text) { t.Number = 1<<53 + 1 },
		"the cluster":  func(t *published.Text) { t.Cluster = "mail" },
		"hash":         func(t *published.Text) { t.Rules += " " },
		"bytes":        func(t *published.Text) { t.Rules = strings.Repeat("x", published.MaxText+1) },
		"message":      func(t *published.Text) { t.Message = strings.Repeat("x", published.MaxMessage+1) },
		"UTF-8":        func(t *published.Text) { t.Message = "\xff" },
	} {
		changed := good
		change(&changed)
		if err := changed.Check("web"); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
