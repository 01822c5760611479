package disk

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// nextData finds the next range of a file at or after at that is no hole, lseek(2);
// io.EOF says that only a hole is left.
func nextData(f *os.File, at int64) (start, end int64, err error) {
	start, err = unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) {
		return 0, 0, io.EOF
	}
	if err != nil {
		return 0, 0, fmt.Errorf("seek data: %w", err)
	}
	if end, err = unix.Seek(int(f.Fd()), start, unix.SEEK_HOLE); err != nil {
		return 0, 0, fmt.Errorf("seek hole: %w", err)
	}
	return start, end, nil
}
