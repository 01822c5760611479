// Command ubuntu makes the look-alike archive and serves it until it is
// interrupted:
//
//	ward lock debian-12
//	go run ./qemu-tests/lookalike/ubuntu -lock debian-12.lock -dir /tmp/archive
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"

	"ward/builder"
	"ward/builder/lock"
	"ward/qemu-tests/lookalike"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "ubuntu:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("ubuntu", flag.ContinueOnError)
	locked := flags.String("lock", lookalike.From+".lock", "lock of the packages that it is made of")
	dir := flags.String("dir", "", "empty folder for the archive")
	listen := flags.String("listen", "127.0.0.1:0", "where it is served")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *dir == "" {
		return errors.New("-dir FOLDER is missing")
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	l, err := lock.Read(*locked)
	if err != nil {
		return err
	}
	cache, err := builder.DefaultCache()
	if err != nil {
		return err
	}
	store, err := lock.OpenStore(builder.StoreDir(cache))
	if err != nil {
		return err
	}
	if err := store.Fetch(ctx, l, func(int64, int64) {}); err != nil {
		return err
	}
	a, err := lookalike.Make(ctx, log, l, store, *dir)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		return err
	}
	fmt.Printf("ward build %s --mirror http://%s/ubuntu --keyring %s\n", lookalike.Image, listener.Addr(), a.Keyring)
	server := &http.Server{Handler: a.Handler()}
	go func() {
		<-ctx.Done()
		server.Close()
	}()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
