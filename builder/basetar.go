package builder

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"
)

// baseFile is the tar of the installed packages in a cache entry and in a registry.
const baseFile = "base.tar.zst"

// openBase reads the tar.
func openBase(name string) (io.ReadCloser, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	z, err := zstd.NewReader(f)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", name, err), f.Close())
	}
	return &baseReader{z, f}, nil
}

type baseReader struct {
	*zstd.Decoder
	f *os.File
}

func (r *baseReader) Close() error {
	r.Decoder.Close()
	return r.f.Close()
}

// compressed lets write make a file, which it is given the name of, and compresses what
// comes while it comes: the name is that of a FIFO. It returns once both have ended.
func compressed(name string, write func(fifo string) error) error {
	dir, err := os.MkdirTemp(filepath.Dir(name), ".fifo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	fifo := filepath.Join(dir, "base.tar")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		return fmt.Errorf("%s: %w", fifo, err)
	}
	// Reading without waiting for a writer; then a writer of our own, so that the end is
	// told when that one has ended, and not before it has begun.
	r, err := os.OpenFile(fifo, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer r.Close()
	keep, err := os.OpenFile(fifo, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer keep.Close()
	written := begin(func() (any, error) {
		err := compress(name, r)
		if err != nil {
			io.Copy(io.Discard, r) // or the writer would wait for a reader
		}
		return nil, err
	})
	err = write(fifo)
	keep.Close()
	_, failed := written.wait()
	return errors.Join(failed, err)
}

// compress writes a file. What unpacking it costs is no more at this level, and it is
// as fast as the package manager writes.
func compress(name string, from io.Reader) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	z, err := zstd.NewWriter(f, zstd.WithEncoderLevel(zstd.SpeedFastest))
	if err != nil {
		return err
	}
	if _, err := io.Copy(z, from); err != nil {
		return errors.Join(err, z.Close())
	}
	return errors.Join(z.Close(), f.Close())
}
