package disk

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"os"
	"runtime"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/errgroup"
)

// blockSize is the size of the pieces in which images are compared and compressed:
// a cluster of a qcow2, which takes them as they are.
const blockSize = 64 << 10

// blocksMagic begins a file of Blocks; its last byte is the version of the form.
const blocksMagic = "wardblk\x01"

// maxImage bounds what a file of Blocks may say of its image's size, in bytes.
const maxImage = 1 << 50

// Blocks are the blocks in which an image differs from another, or from zeros, each
// compressed by itself. The file is blocksMagic, the size of the image in bytes and,
// for each block, the length of its frame, all little-endian; a length of 0 is a
// block that does not differ. Then follow the frames (zstd, RFC 8878).
type Blocks struct {
	f      *os.File
	size   int64
	frames []frame
}

// frame is where the compressed block lies in the file; without a length there is none.
type frame struct {
	at     int64
	length uint32
}

// OpenBlocks opens a file that WriteBlocks wrote.
func OpenBlocks(name string) (*Blocks, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	b := &Blocks{f: f}
	if err := b.readHead(); err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return b, nil
}

func (b *Blocks) readHead() error {
	info, err := b.f.Stat()
	if err != nil {
		return err
	}
	in := bufio.NewReaderSize(b.f, 1<<20)
	head := make([]byte, len(blocksMagic)+8)
	if _, err := io.ReadFull(in, head); err != nil || string(head[:len(blocksMagic)]) != blocksMagic {
		return errors.New("is no file of blocks")
	}
	size := binary.LittleEndian.Uint64(head[len(blocksMagic):])
	n := (size + blockSize - 1) / blockSize
	if size > maxImage || int64(n) > info.Size()/4 {
		return fmt.Errorf("speaks of an image of %d bytes, more than it has lengths for", size)
	}
	b.size = int64(size)
	lengths := make([]byte, 4*n)
	if _, err := io.ReadFull(in, lengths); err != nil {
		return fmt.Errorf("lengths: %w", err)
	}
	at := int64(len(head) + len(lengths))
	b.frames = make([]frame, n)
	for i := range b.frames {
		length := binary.LittleEndian.Uint32(lengths[4*i:])
		b.frames[i] = frame{at, length}
		at += int64(length)
	}
	if at != info.Size() {
		return fmt.Errorf("has %d bytes, want %d", info.Size(), at)
	}
	return nil
}

// Size is the size of the image in bytes.
func (b *Blocks) Size() int64 { return b.size }

// Close closes the file.
func (b *Blocks) Close() error { return b.f.Close() }

// Layers are an image: each says in what it differs from the one before it, the
// first from zeros.
type Layers []*Blocks

// OpenLayers opens files of blocks, the lowest first.
func OpenLayers(names ...string) (Layers, error) {
	var l Layers
	for _, name := range names {
		b, err := OpenBlocks(name)
		if err != nil {
			return nil, errors.Join(err, l.Close())
		}
		l = append(l, b)
	}
	return l, nil
}

// Close closes all files.
func (l Layers) Close() error {
	var faults []error
	for _, b := range l {
		faults = append(faults, b.Close())
	}
	return errors.Join(faults...)
}

// size of the image: that of the top layer, in bytes.
func (l Layers) size() int64 { return l[len(l)-1].size }

// blocks is how many the image has.
func (l Layers) blocks() int { return len(l[len(l)-1].frames) }

// frame is the compressed block of that number; nil: it is all zeros.
func (l Layers) frame(i int) ([]byte, error) {
	for n := len(l) - 1; n >= 0; n-- {
		b := l[n]
		if i >= len(b.frames) || b.frames[i].length == 0 {
			continue
		}
		data := make([]byte, b.frames[i].length)
		if _, err := b.f.ReadAt(data, b.frames[i].at); err != nil {
			return nil, fmt.Errorf("%s: block %d: %w", b.f.Name(), i, err)
		}
		return data, nil
	}
	return nil, nil
}

// block is the block of that number; nil: it is all zeros.
func (l Layers) block(z *zstd.Decoder, i int) ([]byte, error) {
	packed, err := l.frame(i)
	if err != nil || packed == nil {
		return nil, err
	}
	block, err := expand(z, packed, nil)
	if err != nil {
		return nil, fmt.Errorf("block %d: %w", i, err)
	}
	return block, nil
}

// Unpack writes the image into a file at an offset; what is zeros is not written.
func (l Layers) Unpack(ctx context.Context, to *os.File, at int64) error {
	z, err := decoder()
	if err != nil {
		return err
	}
	defer z.Close()
	return parallel(ctx, 0, l.blocks(), func(i int) error {
		block, err := l.block(z, i)
		if err != nil || block == nil {
			return err
		}
		if rest := l.size() - int64(i)*blockSize; rest < blockSize {
			block = block[:rest]
		}
		_, err = to.WriteAt(block, at+int64(i)*blockSize)
		return err
	})
}

// Prints tell the blocks of an image from those of another, for as long as the program
// runs; that of a block of zeros is none.
type Prints []print

// print are two hashes of 64 bits each, with seeds that nobody knows before: two
// blocks have the same ones once in 2^128 pairs.
type print [2]uint64

var printSeeds = [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()}

func printOf(block []byte) print {
	return print{maphash.Bytes(printSeeds[0], block), maphash.Bytes(printSeeds[1], block)}
}

// at is the print of a block; behind the end there are zeros.
func (p Prints) at(i int) print {
	if i < len(p) {
		return p[i]
	}
	return print{}
}

// image reads the blocks of an image.
type image struct {
	f    *os.File
	size int64
	data []bool // blocks that may hold something
}

func openImage(f *os.File) (image, error) {
	info, err := f.Stat()
	if err != nil {
		return image{}, err
	}
	m := image{f: f, size: info.Size()}
	if m.data, err = dataBlocks(f, m.size); err != nil {
		err = fmt.Errorf("%s: %w", f.Name(), err)
	}
	return m, err
}

// read returns a whole block; nil: it is all zeros.
func (m image) read(i int) ([]byte, error) {
	if !m.data[i] {
		return nil, nil
	}
	block := make([]byte, blockSize)
	if _, err := m.f.ReadAt(block, int64(i)*blockSize); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if bytes.Equal(block, zeroBlock[:]) {
		return nil, nil
	}
	return block, nil
}

// WriteBlocks writes the blocks in which an image differs from the one that has the
// prints below; without any, from zeros. It returns the image's own. Equal images give
// equal bytes.
func WriteBlocks(ctx context.Context, name, from string, below Prints) (Prints, error) {
	f, err := os.Open(from)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	m, err := openImage(f)
	if err != nil {
		return nil, err
	}
	own := make(Prints, len(m.data))
	return own, writeBlocks(ctx, name, m.size, len(own), func(i int) ([]byte, error) {
		block, err := m.read(i)
		if err != nil {
			return nil, err
		}
		if block != nil {
			own[i] = printOf(block)
		}
		switch {
		case own[i] == below.at(i):
			return nil, nil
		case block == nil:
			return zeroBlock[:], nil
		}
		return block, nil
	})
}

// writeBlocks writes the blocks that differ returns; nil is one that does not.
func writeBlocks(ctx context.Context, name string, size int64, n int, differ func(i int) ([]byte, error)) (err error) {
	z, err := encoder()
	if err != nil {
		return err
	}
	defer z.Close()
	out, err := os.Create(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	head := binary.LittleEndian.AppendUint64([]byte(blocksMagic), uint64(size))
	lengths := make([]byte, 4*n)
	at := int64(len(head) + len(lengths))
	err = inOrder(ctx, n, func(i int) ([]byte, error) {
		block, err := differ(i)
		if err != nil || block == nil {
			return nil, err
		}
		return z.EncodeAll(block, nil), nil
	}, func(i int, packed []byte) error {
		binary.LittleEndian.PutUint32(lengths[4*i:], uint32(len(packed)))
		_, err := out.WriteAt(packed, at)
		at += int64(len(packed))
		return err
	})
	if err != nil {
		return err
	}
	_, err = out.WriteAt(append(head, lengths...), 0)
	return err
}

var zeroBlock [blockSize]byte

// encoder compresses blocks for several goroutines, at the fastest level: the next one
// takes a third longer and makes an image smaller by a twentieth. A checksum would come after the
// last byte of a block, where QEMU no longer reads; the files have digests.
func encoder() (*zstd.Encoder, error) {
	return zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderCRC(false), zstd.WithWindowSize(blockSize), zstd.WithEncoderConcurrency(runtime.GOMAXPROCS(0)))
}

func decoder() (*zstd.Decoder, error) {
	return zstd.NewReader(nil, zstd.WithDecoderConcurrency(runtime.GOMAXPROCS(0)), zstd.WithDecoderMaxMemory(16*blockSize))
}

// expand returns the block of a frame.
func expand(z *zstd.Decoder, packed, into []byte) ([]byte, error) {
	block, err := z.DecodeAll(packed, into)
	if err == nil && len(block) != blockSize {
		err = fmt.Errorf("has %d bytes, want %d", len(block), blockSize)
	}
	return block, err
}

// dataBlocks tells which blocks of a file may hold something else than zeros.
func dataBlocks(f *os.File, size int64) ([]bool, error) {
	data := make([]bool, (size+blockSize-1)/blockSize)
	for at := int64(0); at < size; {
		start, end, err := nextData(f, at)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		for i := start / blockSize; i*blockSize < end && i < int64(len(data)); i++ {
			data[i] = true
		}
		at = end
	}
	return data, nil
}

// batch is how many blocks inOrder has in memory.
const batch = 256

// inOrder calls work for 0 to n-1, several at a time, and then emit with each
// result that is not nil, in order.
func inOrder(ctx context.Context, n int, work func(i int) ([]byte, error), emit func(i int, data []byte) error) error {
	var done [batch][]byte
	for from := 0; from < n; from += batch {
		to := min(from+batch, n)
		err := parallel(ctx, from, to, func(i int) (err error) {
			done[i-from], err = work(i)
			return err
		})
		if err != nil {
			return err
		}
		for i := from; i < to; i++ {
			if done[i-from] == nil {
				continue
			}
			if err := emit(i, done[i-from]); err != nil {
				return err
			}
			done[i-from] = nil
		}
	}
	return nil
}

// parallel calls f for from to to-1, on every CPU.
func parallel(ctx context.Context, from, to int, f func(i int) error) error {
	group, ctx := errgroup.WithContext(ctx)
	workers := runtime.GOMAXPROCS(0)
	for w := range workers {
		group.Go(func() error {
			for i := from + w; i < to; i += workers {
				if err := ctx.Err(); err != nil {
					return err
				}
				if err := f(i); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return group.Wait()
}
