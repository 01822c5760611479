// Package remote fetches keys from servers: from an HTTPS server with a pinned
// authority, and from a tang server that unlocks what clevis has bound. It does not
// touch the network, which package network brings up in an initramfs and which is
// there on a running machine; so wardctl does without what brings it up.
//
//	more := remote.Fetchers(nil)
package remote

import (
	"context"

	"ward/initramfs/boot/keysource"
)

// Up makes the network ready for a request that is about to be sent.
type Up func(context.Context, keysource.Request) error

// Fetchers are the sources of this package, for keysource.Request.More; up is nil
// where the network is there already.
func Fetchers(up Up) map[string]keysource.Fetcher {
	f := fetcher{network: up}
	return map[string]keysource.Fetcher{"https": f.fromHTTPS, "tang": f.fromTang}
}

// fetcher asks servers beyond a network.
type fetcher struct{ network Up }

func (f fetcher) up(ctx context.Context, req keysource.Request) error {
	if f.network == nil {
		return nil
	}
	return f.network(ctx, req)
}
