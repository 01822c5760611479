package firstboot

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"ward/images/distro"
	"ward/initramfs/handoff"
	"ward/profiles"
)

// ImageFacts is what a machine knows of the image that it was made from.
type ImageFacts struct {
	Name    string `json:"name"`    // of the image: "debian-12"
	Distro  string `json:"distro"`  // os-release ID
	Release string `json:"release"` // os-release VERSION_ID
	Digest  string `json:"digest"`  // of the image's inputs, from its manifest
	Tool    string `json:"tool"`    // version of ward that built it
	// Modules of the initramfs, by name or by set, for the next one; empty means virtio.
	Modules []string `json:"modules,omitempty"`

	// RootShare is what root gets of the space that the disk has beyond the image, in
	// percent, on the first boot; PHI gets the rest, and all that comes later.
	RootShare int `json:"root_share,omitempty"`

	// SecureBoot is the SHA-256 of the certificate whose key has signed what the
	// firmware starts; empty: nothing is signed. The key is not on the machine.
	SecureBoot string `json:"secure_boot,omitempty"`

	// Verity says that root is read-only and verified; a new kernel is a new image.
	Verity bool `json:"verity,omitempty"`

	// Init is what init was told at build time. wardctl finds its key sources in
	// it when it formats the blank volume, and needs it to make a new initramfs.
	Init handoff.Config `json:"-"`
}

// facts are what wardctl reads before it does anything.
type facts struct {
	Image   ImageFacts
	Profile profiles.Profile
	Release distro.Release
	digest  string // of the files that they were read from
}

// readFacts reads what [Install] wrote.
func readFacts(root *os.Root) (*facts, error) {
	var f facts
	var all bytes.Buffer
	read := func(path string, v any) error {
		b, err := root.ReadFile(path)
		if err != nil {
			return err
		}
		all.Write(b)
		return decodeStrict(path, b, v)
	}
	err := errors.Join(read(ImagePath, &f.Image), read(ProfilePath, &f.Profile))
	if e := read(InitPath, &f.Image.Init); e != nil && !errors.Is(e, fs.ErrNotExist) {
		err = errors.Join(err, e)
	}
	if err != nil {
		return nil, fmt.Errorf("what the image says of itself: %w", err)
	}
	if f.Release, err = distro.Find(f.Image.Distro, f.Image.Release); err != nil {
		return nil, fmt.Errorf("/%s: %w", ImagePath, err)
	}
	f.digest = digest(all.Bytes())
	return &f, nil
}

// decodeStrict decodes JSON and refuses unknown keys and trailing data.
func decodeStrict(path string, b []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("/%s: %w", path, err)
	}
	if d.More() {
		return fmt.Errorf("/%s: more than one JSON value", path)
	}
	return nil
}
