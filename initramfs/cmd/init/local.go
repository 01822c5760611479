//go:build !netkeys

package main

import "ward/initramfs/boot"

// options are empty: this init has local key sources only and fits into 2.5 MiB
// with its modules.
func options() boot.Options { return boot.Options{} }
