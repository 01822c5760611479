package builder

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/u-root/u-root/pkg/cpio"

	"ward/builder/secrets"
)

// maxInitramfs is the most of an unpacked initramfs that is read, in bytes.
const maxInitramfs = 512 << 20

// gateOutput refuses an output with a secret in what lies beside the tree, which
// has a gate of its own: the initramfs, the manifest and the other files, and the
// logs of the build. A key that the build was told to embed is
// random bytes in the initramfs and not looked for.
func (b *build) gateOutput() error {
	found, err := scanFolder(b.work)
	if err != nil {
		return err
	}
	inside, err := scanInitramfs(filepath.Join(b.work, initrdFile))
	if err != nil {
		return err
	}
	found = append(found, inside...)
	logs := []string{b.transcript()}
	if b.log != nil {
		logs = append(logs, b.log.Name())
	}
	var s secrets.Scanner
	for _, name := range logs {
		said, err := scanFile(&s, name, strings.TrimPrefix(name, "/"))
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // packages from the cache have no log
			return err
		}
		found = append(found, said...)
	}
	if err := secrets.Refuse(found); err != nil {
		return fmt.Errorf("secret gate: %w", err)
	}
	return nil
}

// transcript is the log of the installation of the image's packages.
func (b *build) transcript() string {
	return filepath.Join(b.Cache, "log", "packages-"+b.Image.Name+".log")
}

// scanFolder looks into the files of a folder that are text.
func scanFolder(dir string) ([]secrets.Finding, error) {
	names, err := namesIn(dir)
	if err != nil {
		return nil, err
	}
	var all []secrets.Finding
	var s secrets.Scanner
	for _, name := range names {
		found, err := scanFile(&s, filepath.Join(dir, name), name)
		if err != nil {
			return nil, err
		}
		all = append(all, found...)
	}
	return all, nil
}

func scanFile(s *secrets.Scanner, path, name string) ([]secrets.Finding, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return s.Scan(name, f)
}

// scanInitramfs looks into each file of an initramfs, by its path and its text.
func scanInitramfs(name string) ([]secrets.Finding, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	z, err := zstd.NewReader(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	defer z.Close()
	archive, err := io.ReadAll(io.LimitReader(z, maxInitramfs))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	records, err := cpio.ReadAllRecords(cpio.Newc.Reader(bytes.NewReader(archive)))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if len(records) == 0 {
		return nil, errors.New(name + ": has no files")
	}
	var all []secrets.Finding
	var s secrets.Scanner
	for _, r := range records {
		if r.Mode&cpio.S_IFMT != cpio.S_IFREG {
			continue
		}
		var found []secrets.Finding
		if f, bad := secrets.Forbidden(r.Name, int64(r.FileSize)); bad {
			found = append(found, f)
		} else if found, err = s.Scan(r.Name, io.NewSectionReader(r.ReaderAt, 0, int64(r.FileSize))); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		for _, f := range found {
			f.Path = initrdFile + ":" + f.Path
			all = append(all, f)
		}
	}
	return all, nil
}
