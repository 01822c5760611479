package netboot

import (
	"bytes"
	"fmt"
	"io"
	"os"
)

// unfinished begins the first sector of a disk whose installation was interrupted.
// It was chosen and its data given up then; it may be written again.
const unfinished = "ward: unfinished installation"

const (
	edge    = 4 << 20 // of both ends; tables, superblocks and their copies lie there
	samples = 256
	sample  = 64 << 10
)

// data says what is on a disk, "" for nothing: both ends and samples between them
// must be zero. fs is the file system that was recognised.
func data(path string, size int64, fs string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	return dataOn(f, size, fs)
}

func dataOn(f io.ReaderAt, size int64, fs string) (string, error) {
	head := make([]byte, 512)
	if _, err := f.ReadAt(head, 0); err != nil {
		return "", err
	}
	if bytes.HasPrefix(head, []byte(unfinished)) {
		return "", nil
	}
	if fs != "" {
		return "file system " + fs, nil
	}
	buf := make([]byte, sample)
	look := func(at int64) (string, error) {
		n := min(int64(len(buf)), size-at)
		if _, err := f.ReadAt(buf[:n], at); err != nil {
			return "", err
		}
		for i, b := range buf[:n] {
			if b != 0 {
				return fmt.Sprintf("byte %d is not zero", at+int64(i)), nil
			}
		}
		return "", nil
	}
	var places []int64
	for at := int64(0); at < min(edge, size); at += sample {
		places = append(places, at)
	}
	for at := max(0, size-edge); at < size; at += sample {
		places = append(places, at)
	}
	for i := int64(1); i < samples; i++ {
		places = append(places, size/samples*i)
	}
	for _, at := range places {
		if what, err := look(at); what != "" || err != nil {
			return what, err
		}
	}
	return "", nil
}
