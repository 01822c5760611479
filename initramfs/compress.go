package initramfs

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// maxModule is the largest module that is taken; the largest of a distribution
// kernel (amdgpu, not in any set) has about 30 MiB.
const maxModule = 64 << 20

// plain is the path of a module without the suffix of its compression.
func plain(path string) string {
	for _, s := range []string{".xz", ".zst", ".gz"} {
		if p, ok := strings.CutSuffix(path, ".ko"+s); ok {
			return p + ".ko"
		}
	}
	return path
}

// readModule reads a module and decompresses it. Modules are stored plain: the
// archive's own compression then sees all of them together and packs better, and
// init needs no decompressor. A signature is part of the plain file and stays
// valid, Documentation/admin-guide/module-signing.rst.
func readModule(fsys fs.FS, path string) ([]byte, error) {
	data, err := fs.ReadFile(fsys, path)
	if err != nil {
		return nil, err
	}
	var r io.Reader
	switch {
	case strings.HasSuffix(path, ".xz"):
		r, err = xz.NewReader(bytes.NewReader(data))
	case strings.HasSuffix(path, ".zst"):
		var d *zstd.Decoder
		if d, err = zstd.NewReader(bytes.NewReader(data)); err == nil {
			defer d.Close()
			r = d
		}
	case strings.HasSuffix(path, ".gz"):
		r, err = gzip.NewReader(bytes.NewReader(data))
	default:
		return checkModule(path, data)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	out, err := io.ReadAll(io.LimitReader(r, maxModule+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return checkModule(path, out)
}

// checkModule refuses at build time what the kernel would refuse at boot.
func checkModule(path string, data []byte) ([]byte, error) {
	if len(data) > maxModule {
		return nil, fmt.Errorf("%s: more than %d bytes", path, maxModule)
	}
	if !bytes.HasPrefix(data, []byte("\x7fELF")) {
		return nil, fmt.Errorf("%s: not an ELF file", path)
	}
	return data, nil
}
