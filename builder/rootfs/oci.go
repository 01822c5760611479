package rootfs

import (
	"bytes"
	"fmt"
	"io"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
)

// maxIndexes is how many lists of images a layout may have within one another.
const maxIndexes = 4

// ociImage finds the one image for Linux and a processor (in Go's names, as OCI has
// them) in a layout, and the SHA-256 of its manifest.
func ociImage(dir, arch string) (v1.Image, string, error) {
	fault := func(err error) (v1.Image, string, error) {
		return nil, "", fmt.Errorf("base: oci-dir %s: %w", dir, err)
	}
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		return fault(fmt.Errorf("%w\nhint: a layout is a folder with index.json, oci-layout and blobs, as skopeo copy docker://NAME oci:DIR writes", err))
	}
	var found []v1.Image
	var digests []string
	var look func(v1.ImageIndex, int) error
	look = func(index v1.ImageIndex, depth int) error {
		if depth > maxIndexes {
			return fmt.Errorf("has lists within lists, more than %d deep", maxIndexes)
		}
		m, err := index.IndexManifest()
		if err != nil {
			return err
		}
		for _, d := range m.Manifests {
			switch {
			case d.MediaType.IsIndex():
				inner, err := index.ImageIndex(d.Digest)
				if err != nil {
					return err
				}
				if raw, err := inner.RawManifest(); err != nil || !is(bytes.NewReader(raw), d.Digest) {
					return fmt.Errorf("%s is damaged (%v)", d.Digest, err)
				}
				if err := look(inner, depth+1); err != nil {
					return err
				}
			case d.MediaType.IsImage():
				img, err := index.Image(d.Digest)
				if err != nil {
					return err
				}
				if err := checkConfig(img, d.Digest); err != nil {
					return err
				}
				c, err := img.ConfigFile()
				if err != nil {
					return err
				}
				if c.OS == "linux" && c.Architecture == arch {
					found, digests = append(found, img), append(digests, d.Digest.Hex)
				}
			}
		}
		return nil
	}
	if err := look(index, 1); err != nil {
		return fault(err)
	}
	if len(found) != 1 {
		return fault(fmt.Errorf("has %d images for linux and %s, want one", len(found), arch))
	}
	return found[0], digests[0], nil
}

// checkConfig compares an image's manifest and configuration with their digests.
func checkConfig(img v1.Image, digest v1.Hash) error {
	raw, err := img.RawManifest()
	if err != nil {
		return err
	}
	if !is(bytes.NewReader(raw), digest) {
		return fmt.Errorf("the manifest %s is damaged", digest)
	}
	m, err := img.Manifest()
	if err != nil {
		return err
	}
	if raw, err = img.RawConfigFile(); err != nil {
		return err
	}
	if !is(bytes.NewReader(raw), m.Config.Digest) {
		return fmt.Errorf("the configuration %s is damaged", m.Config.Digest)
	}
	return nil
}

// openOCI reads the tree that the layers make, one above the other, as a tar.
func openOCI(dir, arch string) (io.ReadCloser, error) {
	img, _, err := ociImage(dir, arch)
	if err != nil {
		return nil, err
	}
	layers, err := img.Layers()
	if err != nil {
		return nil, fmt.Errorf("base: oci-dir %s: %w", dir, err)
	}
	for _, l := range layers {
		if err := checkLayer(l); err != nil {
			return nil, fmt.Errorf("base: oci-dir %s: %w\nhint: copy it again", dir, err)
		}
	}
	return mutate.Extract(img), nil
}

func checkLayer(l v1.Layer) error {
	want, err := l.Digest()
	if err != nil {
		return err
	}
	r, err := l.Compressed()
	if err != nil {
		return fmt.Errorf("layer %s: %w", want, err)
	}
	defer r.Close()
	if !is(r, want) {
		return fmt.Errorf("layer %s is damaged", want)
	}
	return nil
}

// is tells whether bytes have a digest.
func is(r io.Reader, want v1.Hash) bool {
	got, _, err := v1.SHA256(r)
	return err == nil && got == want
}
