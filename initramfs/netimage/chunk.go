package netimage

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"runtime"

	"github.com/klauspost/compress/zstd"
)

// Pack cuts a plain disk of the given size into chunks and writes each as one
// zstd frame to w. Concatenated frames are one zstd file: `zstd -d` gives the disk.
func Pack(w io.Writer, disk io.Reader, size int64) (Disk, error) {
	d := Disk{File: DiskFile, Size: size, Sector: 512, ChunkSize: ChunkSize}
	// The frame's own checksum is left out: the manifest has a stronger one.
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderCRC(false), zstd.WithEncoderConcurrency(runtime.GOMAXPROCS(0)), zstd.WithEncoderLevel(zstd.SpeedDefault))
	if err != nil {
		return Disk{}, err
	}
	whole := sha256.New()
	type packed struct {
		frame []byte
		zero  bool
	}
	// A few chunks are compressed at once and written in their order.
	queue := make(chan chan packed, runtime.GOMAXPROCS(0))
	readErr := make(chan error, 1)
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		defer close(queue)
		for at := int64(0); at < size; at += ChunkSize {
			plain := make([]byte, min(ChunkSize, size-at))
			if _, err := io.ReadFull(disk, plain); err != nil {
				readErr <- fmt.Errorf("read the disk at %d: %w", at, err)
				return
			}
			whole.Write(plain)
			out := make(chan packed, 1)
			select {
			case queue <- out:
			case <-stop:
				return
			}
			go func() { out <- packed{enc.EncodeAll(plain, nil), isZero(plain)} }()
		}
		readErr <- nil
	}()
	for out := range queue {
		p := <-out
		if _, err := w.Write(p.frame); err != nil {
			return Disk{}, err
		}
		sum := sha256.Sum256(p.frame)
		d.Chunks = append(d.Chunks, Chunk{Bytes: int64(len(p.frame)), SHA256: hex.EncodeToString(sum[:]), Zero: p.zero})
	}
	if err := <-readErr; err != nil {
		return Disk{}, err
	}
	d.SHA256 = hex.EncodeToString(whole.Sum(nil))
	return d, nil
}

// ErrDigest says that a chunk is not the one of the manifest.
var ErrDigest = errors.New("the image was changed")

// Check compares the frame of chunk i with the manifest.
func (d Disk) Check(i int, frame []byte) error {
	sum := sha256.Sum256(frame)
	if got := hex.EncodeToString(sum[:]); got != d.Chunks[i].SHA256 {
		return fmt.Errorf("%w: chunk %d has sha256 %s, the manifest says %s", ErrDigest, i, got, d.Chunks[i].SHA256)
	}
	return nil
}

// Unpacker unpacks chunks into one buffer.
type Unpacker struct {
	dec *zstd.Decoder
	buf []byte
}

// NewUnpacker makes one.
func NewUnpacker() (*Unpacker, error) {
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxChunk))
	if err != nil {
		return nil, err
	}
	return &Unpacker{dec: dec}, nil
}

// Unpack checks the frame of chunk i and gives its plain bytes, which are valid
// until the next call. Not a byte is unpacked of a frame that does not fit.
func (u *Unpacker) Unpack(d Disk, i int, frame []byte) ([]byte, error) {
	if err := d.Check(i, frame); err != nil {
		return nil, err
	}
	var err error
	if u.buf, err = u.dec.DecodeAll(frame, u.buf[:0]); err != nil {
		return nil, fmt.Errorf("chunk %d: %w", i, err)
	}
	if int64(len(u.buf)) != d.Length(i) {
		return nil, fmt.Errorf("chunk %d: %d bytes, want %d", i, len(u.buf), d.Length(i))
	}
	if d.Chunks[i].Zero && !isZero(u.buf) {
		return nil, fmt.Errorf("chunk %d: is said to be zero and is not", i)
	}
	return u.buf, nil
}

var zeros [64 << 10]byte

func isZero(b []byte) bool {
	for len(b) > len(zeros) {
		if !bytes.Equal(b[:len(zeros)], zeros[:]) {
			return false
		}
		b = b[len(zeros):]
	}
	return bytes.Equal(b, zeros[:len(b)])
}
