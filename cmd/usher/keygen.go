package main

import (
	"fmt"

	"usher/cmd/usher/internal/publish"
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
	if err := publish.WriteKeys(k.File); err != nil {
		return err
	}
	_, err := fmt.Fprintf(sys.stdout, "private key: %s\npublic key: %s.pub\n", k.File, k.File)
	return err
}
