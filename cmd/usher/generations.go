package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"usher/cmd/usher/internal/exit"
	"usher/cmd/usher/internal/publish"
	"usher/proxy/printable"
)

type generationsCmd struct {
	Number uint64 `arg:"" optional:"" help:"With --text: the generation to print. Default: the newest."`
	Text   bool   `xor:"form" help:"Print the text of a generation, and nothing else. What is not printable is escaped."`
	JSON   bool   `name:"json" xor:"form" help:"Print JSON."`
}

// Help is shown under usher generations --help.
func (generationsCmd) Help() string {
	return `Lists the rules that are published in the store of USHER_STORE for USHER_CLUSTER: the newest generation is the one to be in force. Then lists the replicas that follow, and why one of them is not on the newest generation. A generation that cannot be read is shown as unreadable.

Exit codes: 0 success, 1 the store cannot be asked or has no such generation, 2 wrong arguments or a wrong variable.`
}

// Run lists what is published, or prints one text.
func (g generationsCmd) Run(ctx context.Context, sys system) error {
	if g.Number != 0 && !g.Text {
		return exit.Usage(errors.New("a number goes with --text"))
	}
	_, st, err := publishedStore(sys)
	if err != nil {
		return err
	}
	defer st.Close()
	dialling, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn, err := st.Published(dialling)
	if err != nil {
		return fmt.Errorf("the store: %w", err)
	}
	defer conn.Close()
	if g.Text {
		return publish.PrintText(ctx, sys.stdout, conn, g.Number)
	}
	list, err := publish.NewList(ctx, conn)
	if err != nil {
		return err
	}
	if g.JSON {
		return printable.WriteJSON(sys.stdout, list)
	}
	return list.Print(sys.stdout)
}

// dialTimeout bounds the way to the store.
const dialTimeout = 10 * time.Second
