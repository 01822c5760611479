//go:build netkeys

package main

import (
	"log/slog"
	"maps"
	"os"

	"ward/initramfs/boot"
	"ward/initramfs/boot/cmdline"
	"ward/initramfs/boot/keysource"
	"ward/initramfs/boot/keysource/network"
	"ward/initramfs/boot/keysource/tpmkey"
)

// options add the sources that need a network or a TPM; they make the binary more
// than twice as large.
func options() boot.Options {
	var n *network.Network
	return boot.Options{
		More: func(line cmdline.Line) map[string]keysource.Fetcher {
			ip, _ := line.Get("ip")
			bond, _ := line.Get("bond")
			vlan, _ := line.Get("vlan")
			n = network.NewStack(ip, bond, vlan)
			more := maps.Clone(n.Fetchers())
			more["tpm2"] = tpmkey.Fetcher
			return more
		},
		Leave: tpmkey.Leave,
		Down: func(log *slog.Logger) {
			n.Down(log)
			_ = os.Remove("/etc/resolv.conf")
		},
	}
}
