package published

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strconv"
	"time"
)

// signed returns the bytes that a signature covers. They differ for any two
// generations, because a cluster name has no blanks, and each value in front of the
// text has no line break.
func (t Text) signed() []byte {
	head := fmt.Sprintf("usher rules 1\n%s %d\n%s\n%s\n", t.Cluster, t.Number, t.When.UTC().Format(time.RFC3339), strconv.Quote(t.Message))
	return append([]byte(head), t.Rules...)
}

// Sign returns t with a signature over number, cluster, time, message and text.
func (t Text) Sign(key ed25519.PrivateKey) Text {
	t.Signature = ed25519.Sign(key, t.signed())
	return t
}

// Errors of Verify.
var (
	ErrUnsigned     = errors.New("it is not signed; publish with usher apply --key")
	ErrBadSignature = errors.New("its signature does not match: another key signed it, or it was changed")
)

// Verify fails unless one of the keys has signed t. Without keys it accepts any text.
func (t Text) Verify(keys []ed25519.PublicKey) error {
	if len(keys) == 0 {
		return nil
	}
	if len(t.Signature) == 0 {
		return ErrUnsigned
	}
	for _, key := range keys {
		if ed25519.Verify(key, t.signed(), t.Signature) {
			return nil
		}
	}
	return ErrBadSignature
}

const (
	privateBlock = "PRIVATE KEY" // PKCS #8
	publicBlock  = "PUBLIC KEY"  // PKIX
)

// NewKey returns a new key pair in PEM form.
func NewKey() (private, public []byte, err error) {
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	privDER, err1 := x509.MarshalPKCS8PrivateKey(priv)
	pubDER, err2 := x509.MarshalPKIXPublicKey(pub)
	if err := errors.Join(err1, err2); err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: privateBlock, Bytes: privDER}),
		pem.EncodeToMemory(&pem.Block{Type: publicBlock, Bytes: pubDER}), nil
}

// ParsePrivateKey reads a private key in PEM form.
func ParsePrivateKey(text []byte) (ed25519.PrivateKey, error) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != privateBlock {
		return nil, errors.New("no private key in PEM form; make one with usher keygen")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("private key: %w", err)
	}
	private, ok := key.(ed25519.PrivateKey)
	if !ok {
		return nil, errors.New("the private key is not one of ed25519; make one with usher keygen")
	}
	return private, nil
}

// ParsePublicKeys reads one or more public keys in PEM form. Operators need several
// while they replace a key.
func ParsePublicKeys(text []byte) (keys []ed25519.PublicKey, err error) {
	for {
		var block *pem.Block
		block, text = pem.Decode(text)
		switch {
		case block == nil && len(keys) == 0:
			return nil, errors.New("no public key in PEM form; usher keygen writes it into the file that ends in .pub")
		case block == nil:
			return keys, nil
		case block.Type == privateBlock:
			return nil, errors.New("this is the private key, which replicas must not have; name the file that ends in .pub")
		}
		key, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("public key: %w", err)
		}
		public, ok := key.(ed25519.PublicKey)
		if !ok {
			return nil, errors.New("the public key is not one of ed25519; make one with usher keygen")
		}
		keys = append(keys, public)
	}
}
