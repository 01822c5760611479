//go:build netkeys

package main

import (
	"ward/initramfs/boot"
	"ward/initramfs/boot/netkeys"
)

// options add the sources that need a network or a TPM.
func options() boot.Options {
	o, _ := netkeys.Options()
	return o
}
