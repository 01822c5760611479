// Package netkeys adds the key sources that need a network or a TPM to a boot;
// they make the binary more than twice as large.
package netkeys

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

// Options are those of a boot with these sources. net returns the network that they
// share; nil before the boot has read the kernel line.
func Options() (o boot.Options, net func() *network.Network) {
	var n *network.Network
	return boot.Options{
		More: func(line cmdline.Line) map[string]keysource.Fetcher {
			n = network.FromLine(line)
			more := maps.Clone(n.Fetchers())
			more["tpm2"] = tpmkey.Fetcher
			return more
		},
		Leave: tpmkey.Leave,
		Down: func(log *slog.Logger) {
			n.Down(log)
			_ = os.Remove("/etc/resolv.conf")
		},
	}, func() *network.Network { return n }
}
