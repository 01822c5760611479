// Package builder makes an image: it installs the packages, applies the controls
// to the tree, builds the initramfs, the kernel image and the disk, and writes
// down what it did. Plan lists the steps, Build runs them. Nothing in it needs a
// loop device, device-mapper or a mount on the host.
package builder

import "context"

// Step is a part of a build that can be listed, timed and logged.
type Step struct {
	Name string
	Run  func(context.Context) error
}
