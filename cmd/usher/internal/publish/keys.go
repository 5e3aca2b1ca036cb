package publish

import (
	"crypto/ed25519"
	"fmt"
	"os"

	"usher/store/published"
)

// ReadKey reads a private key. For "" it returns nil.
func ReadKey(file string) (ed25519.PrivateKey, error) {
	if file == "" {
		return nil, nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	key, err := published.ParsePrivateKey(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return key, nil
}

// WriteKeys makes a key pair. It writes the private key to file and the public one to
// file.pub. Neither may exist.
func WriteKeys(file string) error {
	private, public, err := published.NewKey()
	if err != nil {
		return err
	}
	if err := writeNew(file, private, 0o600); err != nil {
		return err
	}
	return writeNew(file+".pub", public, 0o644)
}

// writeNew writes a file that does not exist yet.
func writeNew(name string, content []byte, mode os.FileMode) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	if _, err := f.Write(content); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}
