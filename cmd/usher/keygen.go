package main

import (
	"fmt"
	"os"

	"usher/store/published"
)

type keygenCmd struct {
	File string `arg:"" help:"The file to write the private key to. The public key goes to the same name with .pub at its end. Neither may exist."`
}

// Help is shown under usher keygen --help.
func (keygenCmd) Help() string {
	return `The private key is for usher apply --key and usher rollback --key: keep it where rules are published, and nowhere else. The public key is for USHER_CONFIG_KEY on all replicas.

To replace a key, put the new public key into that file behind the old one and restart the replicas, publish with the new private key, then remove the old public key.

Exit codes: 0 success, 1 a file exists or cannot be written, 2 wrong arguments.`
}

// Run makes a key pair.
func (k keygenCmd) Run(sys system) error {
	private, public, err := published.NewKey()
	if err != nil {
		return err
	}
	if err := writeNew(k.File, private, 0o600); err != nil {
		return err
	}
	if err := writeNew(k.File+".pub", public, 0o644); err != nil {
		return err
	}
	_, err = fmt.Fprintf(sys.stdout, "private key: %s\npublic key: %s.pub\n", k.File, k.File)
	return err
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
