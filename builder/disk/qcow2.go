package disk

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
)

// The layout of a qcow2, version 3 (QEMU, docs/interop/qcow2.txt). A cluster is a
// block; each table and each block of counters fills clusters.
const (
	qcowMagic      = 0x514649fb
	qcowHead       = 112
	qcowCompressed = 1 << 62 // of an entry of an L2 table
	qcowOwned      = 1 << 63 // of an entry of L1 and L2: counted once, may be written to
	// In the entry of a compressed cluster the number of further sectors begins at
	// 62-(cluster_bits-8).
	qcowSectors = 54
	clusterBits = 16
	perTable    = blockSize / 8 // entries of an L2 table
	perCounters = blockSize / 2 // counters of 16 bits
	bitTypeSet  = 1 << 3        // incompatible feature: the header names the compression
	typeZstd    = 1
)

// Part is a part of a disk that is there in compressed blocks, at an offset that is
// a multiple of theirs.
type Part struct {
	At     int64
	Layers Layers
}

// WriteQCOW2 writes a disk as compressed qcow2 to a new file: parts from their
// blocks, which are not compressed again, and the rest from the raw file. Equal
// contents give equal bytes.
func WriteQCOW2(ctx context.Context, to, raw string, parts ...Part) (err error) {
	src, err := os.Open(raw)
	if err != nil {
		return err
	}
	defer src.Close()
	q := &qcow2{}
	if q.raw, err = openImage(src); err != nil {
		return err
	}
	if q.size = q.raw.size; q.size%blockSize != 0 {
		return fmt.Errorf("%s: has %d bytes, want whole blocks of %d", raw, q.size, blockSize)
	}
	for _, p := range parts {
		if p.At%blockSize != 0 || p.At < 0 || p.At+p.Layers.size() > q.size {
			return fmt.Errorf("%s: a part at %d of %d bytes is not within its blocks", raw, p.At, p.Layers.size())
		}
	}
	q.parts = parts
	if q.out, err = os.Create(to); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, q.out.Close()) }()
	return q.write(ctx)
}

type qcow2 struct {
	raw    image
	out    *os.File
	size   int64
	parts  []Part
	at     int64    // end of what is written, in bytes
	l2     []uint64 // entries of all L2 tables
	counts []uint16 // references to each cluster of the file
}

func (q *qcow2) write(ctx context.Context) error {
	z, err := encoder()
	if err != nil {
		return err
	}
	defer z.Close()
	d, err := decoder()
	if err != nil {
		return err
	}
	defer d.Close()
	clusters := int(q.size / blockSize)
	tables := (clusters + perTable - 1) / perTable
	l1 := (tables*8 + blockSize - 1) / blockSize
	q.l2 = make([]uint64, tables*perTable)
	// Header, table of counters, L1 and L2 come first, but are known last.
	front := 2 + l1 + tables
	q.at = int64(front) * blockSize
	q.count(0, q.at)
	err = inOrder(ctx, clusters, func(i int) ([]byte, error) {
		packed, err := q.part(i)
		if err != nil || packed != nil {
			return packed, err
		}
		block, err := q.raw.read(i)
		if err != nil || block == nil {
			return nil, err
		}
		return z.EncodeAll(block, nil), nil
	}, func(i int, packed []byte) error {
		if len(packed) < blockSize {
			return q.put(i, packed)
		}
		// What does not become shorter is kept as it is, in a cluster of its own.
		block, err := expand(d, packed, nil)
		if err != nil {
			return fmt.Errorf("block %d: %w", i, err)
		}
		return q.putWhole(i, block)
	})
	if err != nil {
		return err
	}
	return q.finish(l1, tables)
}

// part is the compressed block of that number, if a part has it.
func (q *qcow2) part(i int) ([]byte, error) {
	for _, p := range q.parts {
		if n := i - int(p.At/blockSize); n >= 0 && n < p.Layers.blocks() {
			return p.Layers.frame(n)
		}
	}
	return nil, nil
}

// put writes a compressed cluster behind what is there.
func (q *qcow2) put(i int, packed []byte) error {
	last := q.at + int64(len(packed)) - 1
	q.l2[i] = qcowCompressed | uint64(last/sector-q.at/sector)<<qcowSectors | uint64(q.at)
	q.count(q.at, last+1)
	_, err := q.out.WriteAt(packed, q.at)
	q.at = last + 1
	return err
}

func (q *qcow2) putWhole(i int, block []byte) error {
	q.align()
	q.l2[i] = qcowOwned | uint64(q.at)
	q.count(q.at, q.at+blockSize)
	_, err := q.out.WriteAt(block, q.at)
	q.at += blockSize
	return err
}

func (q *qcow2) align() { q.at = (q.at + blockSize - 1) / blockSize * blockSize }

// count adds a reference to each cluster of a range of bytes.
func (q *qcow2) count(from, to int64) {
	last := int((to - 1) / blockSize)
	for len(q.counts) <= last {
		q.counts = append(q.counts, 0)
	}
	for c := int(from / blockSize); c <= last; c++ {
		q.counts[c]++
	}
}

// finish writes the counters, which count themselves, and what comes first.
func (q *qcow2) finish(l1, tables int) error {
	q.align()
	counters := 0
	for n := int(q.at / blockSize); counters*perCounters < n+counters; {
		counters++
	}
	if counters > perTable {
		return fmt.Errorf("%s: the disk is too large for one table of counters", q.out.Name())
	}
	start := q.at
	q.count(start, start+int64(counters)*blockSize)
	q.counts = append(q.counts, make([]uint16, counters*perCounters-len(q.counts))...)
	var text []byte
	for _, n := range q.counts {
		text = binary.BigEndian.AppendUint16(text, n)
	}
	if _, err := q.out.WriteAt(text, start); err != nil {
		return err
	}

	be := binary.BigEndian
	l1At, l2At := int64(2)*blockSize, int64(2+l1)*blockSize
	head := be.AppendUint32(nil, qcowMagic)
	head = be.AppendUint32(head, 3)
	head = append(head, make([]byte, 12)...) // no backing file
	head = be.AppendUint32(head, clusterBits)
	head = be.AppendUint64(head, uint64(q.size))
	head = be.AppendUint32(head, 0) // not encrypted
	head = be.AppendUint32(head, uint32(tables))
	head = be.AppendUint64(head, uint64(l1At))
	head = be.AppendUint64(head, blockSize)  // table of counters
	head = be.AppendUint32(head, 1)          // clusters of it
	head = append(head, make([]byte, 12)...) // no snapshots
	head = be.AppendUint64(head, bitTypeSet)
	head = append(head, make([]byte, 16)...) // features that need not be known
	head = be.AppendUint32(head, 4)          // counters have 1<<4 bits
	head = be.AppendUint32(head, qcowHead)
	head = append(head, typeZstd, 0, 0, 0, 0, 0, 0, 0)

	front := make([]byte, (2+l1+tables)*blockSize)
	copy(front, head)
	for i := range counters {
		be.PutUint64(front[blockSize+8*i:], uint64(start+int64(i)*blockSize))
	}
	for i := range tables {
		be.PutUint64(front[l1At+int64(8*i):], qcowOwned|uint64(l2At+int64(i)*blockSize))
	}
	for i, entry := range q.l2 {
		be.PutUint64(front[l2At+int64(8*i):], entry)
	}
	_, err := q.out.WriteAt(front, 0)
	return err
}
