package follow

import (
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"usher/store/published"
)

// Keys reads the file of USHER_CONFIG_KEY. For "" it returns no key.
func Keys(file string) ([]ed25519.PublicKey, error) {
	if file == "" {
		return nil, nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("USHER_CONFIG_KEY: %w", err)
	}
	keys, err := published.ParsePublicKeys(text)
	if err != nil {
		return nil, fmt.Errorf("USHER_CONFIG_KEY: %s: %w", file, err)
	}
	return keys, nil
}

// readCache returns the text in a cache, or the zero Text if the file does not exist.
func readCache(file string) (t published.Text, err error) {
	if file == "" {
		return t, nil
	}
	content, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return t, nil
	}
	if err != nil {
		return t, err
	}
	if err := json.Unmarshal(content, &t); err != nil {
		return published.Text{}, fmt.Errorf("it is no cache of published rules: %w", err)
	}
	if t.Number == 0 {
		return t, errors.New("it is no cache of published rules: it names no generation")
	}
	return t, nil
}

// writeCache replaces a cache in one step, so that a crash leaves the old file or the
// new one. Only the owner can read the file.
func writeCache(file string, t published.Text) error {
	if file == "" {
		return nil
	}
	content, err := json.MarshalIndent(t, "", "  ")
	if err != nil {
		return err
	}
	next, err := os.CreateTemp(filepath.Dir(file), filepath.Base(file)+".*")
	if err != nil {
		return err
	}
	_, err = next.Write(append(content, '\n'))
	if err = errors.Join(err, next.Sync(), next.Close()); err == nil {
		err = os.Rename(next.Name(), file)
	}
	if err != nil {
		return errors.Join(err, os.Remove(next.Name()))
	}
	return nil
}
