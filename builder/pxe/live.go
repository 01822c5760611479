package pxe

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/u-root/u-root/pkg/cpio"

	"ward/initramfs"
	"ward/initramfs/handoff"
	"ward/initramfs/netimage"
)

// live makes the initramfs one that loads root into memory and then does what the
// image's own does: with its configuration.
func (e *export) live(spec *initramfs.Spec) error {
	c, err := initConfig(filepath.Join(e.Image, InitrdFile))
	if err != nil {
		return fmt.Errorf("image %s: %w", e.Image, err)
	}
	switch {
	case c.Verity:
		return errors.New("the image has a verified root, which cannot be loaded into memory\nhint: bake it with integrity: {root: plain}; each part is verified as it comes")
	case len(c.Volumes) > 1:
		return fmt.Errorf("the image has the PHI volume %s beside %s, and a machine without an installation gets a partition for %s alone\nhint: bake it without controls.phi.volumes, or install it", c.Volumes[1].Name, c.Volumes[0].Name, c.Volumes[0].Name)
	case slices.ContainsFunc(c.Sources, func(s handoff.Source) bool { return s.Type == "embedded" }):
		return errors.New("the image has the key of patients' data in it, and everybody on the network could fetch it\nhint: bake it with another key source")
	}
	spec.Config, spec.Modules = c, append(slices.Clone(spec.Modules), "loop")
	spec.Config.Modules = nil // of the image's own choice of drivers
	spec.Files[strings.TrimPrefix(netimage.LivePath, "/")] = []byte("root is loaded into memory\n")
	return nil
}

// words are those of the image's own kernel line that a live system needs too: all
// but those of its disk.
func (e *export) words() []string {
	if !e.Live {
		return nil
	}
	return slices.DeleteFunc(strings.Fields(e.from.Cmdline), func(w string) bool {
		return w == "ro" || strings.HasPrefix(w, "root=")
	})
}

// initConfig reads what init is told out of an image's initramfs.
func initConfig(file string) (handoff.Config, error) {
	f, err := os.Open(file)
	if err != nil {
		return handoff.Config{}, err
	}
	defer f.Close()
	z, err := zstd.NewReader(f)
	if err != nil {
		return handoff.Config{}, err
	}
	defer z.Close()
	const most = 512 << 20
	plain, err := io.ReadAll(io.LimitReader(z, most))
	if err != nil {
		return handoff.Config{}, fmt.Errorf("%s: %w", InitrdFile, err)
	}
	records := cpio.Newc.Reader(bytes.NewReader(plain))
	for {
		r, err := records.ReadRecord()
		if err != nil {
			return handoff.Config{}, fmt.Errorf("%s: no %s: %w", InitrdFile, handoff.ConfigPath, err)
		}
		if "/"+r.Name != handoff.ConfigPath {
			continue
		}
		data, err := io.ReadAll(io.NewSectionReader(r, 0, int64(r.FileSize)))
		if err != nil {
			return handoff.Config{}, err
		}
		return handoff.DecodeConfig(data)
	}
}
