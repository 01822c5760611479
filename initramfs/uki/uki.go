// Package uki joins systemd's UEFI stub, a kernel, an initramfs and the kernel
// line into one PE file, a unified kernel image, as the Unified Kernel Image
// specification (UAPI.5) lays down. It runs on the build host and, after a kernel
// update, on the machine, where objcopy is not installed: so it writes the
// section table itself.
//
//	err := uki.Write(w, uki.Parts{Stub: stub, Linux: kernel, Initrd: initramfs, Cmdline: "root=PARTUUID=... ro"})
package uki

import (
	"bytes"
	"debug/pe"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Parts are what a UKI is made of.
type Parts struct {
	Stub      []byte // systemd's linuxx64.efi.stub
	Linux     []byte // bzImage
	Initrd    []byte
	Cmdline   string // without a line feed; systemd-stub(7): taken as it is
	OSRelease string // text of os-release(5): boot loaders show its PRETTY_NAME and sort by its VERSION_ID
	Uname     string // kernel release, "6.1.0-56-cloud-amd64"
}

// section is one part on its way into the PE file.
type section struct {
	name string
	data []byte
}

// Offsets in a PE32+ file, from the PE Format specification of Microsoft.
const (
	peOffsetAt        = 0x3c // DOS header: where "PE\0\0" is
	coffSections      = 6    // from the PE signature: NumberOfSections, 2 bytes
	coffSymbols       = 12   // PointerToSymbolTable, 4 bytes
	coffSymbolCount   = 16   // NumberOfSymbols, 4 bytes
	coffOptionalSize  = 20   // SizeOfOptionalHeader, 2 bytes
	optionalAt        = 24   // the optional header
	optInitialized    = 8    // SizeOfInitializedData, 4 bytes
	optSectionAlign   = 32
	optFileAlign      = 36
	optImageSize      = 56
	optHeadersSize    = 60
	optCheckSum       = 64
	sectionHeaderSize = 40
	// CNT_INITIALIZED_DATA | MEM_READ
	sectionFlags = 0x40000040
)

// pageSize is the alignment of our sections in memory. systemd-stub hands the
// initramfs to the kernel in place, and the kernel wants whole pages.
const pageSize = 4096

// Bounds of what is read and written. The PE format holds 32 bit sizes, and a
// UKI has to fit in memory below 4 GiB; its loaders take up to 96 sections.
const (
	maxPart     = 1 << 30
	maxImage    = 1 << 31 // bytes, of the file and of the image in memory
	maxSections = 96
	maxAlign    = 1 << 16 // of the file; PE Format: FileAlignment is a power of 2 of up to 64 KiB
)

// Write writes the UKI. The same parts give the same bytes.
func Write(w io.Writer, p Parts) error {
	sections, err := p.sections()
	if err != nil {
		return err
	}
	head, table, err := open(p.Stub, len(sections))
	if err != nil {
		return fmt.Errorf("uki: stub: %w", err)
	}
	total := int64(max(table.lastVA, table.lastByte))
	for _, s := range sections {
		total += int64(len(s.data)) + pageSize + maxAlign
	}
	if total > maxImage {
		return fmt.Errorf("uki: the parts have %d bytes together, more than %d", total, int64(maxImage))
	}
	le := binary.LittleEndian
	opt := head[table.optional:]
	fileAlign := le.Uint32(opt[optFileAlign:])
	va := align(table.lastVA, pageSize)
	offset := align(table.lastByte, fileAlign)
	var added uint32
	for i, s := range sections {
		raw := align(uint32(len(s.data)), fileAlign)
		h := head[table.end+i*sectionHeaderSize:][:sectionHeaderSize]
		clear(h) // what a stub has behind its table is not ours
		copy(h[:8], s.name)
		le.PutUint32(h[8:], uint32(len(s.data)))
		le.PutUint32(h[12:], va)
		le.PutUint32(h[16:], raw)
		le.PutUint32(h[20:], offset)
		le.PutUint32(h[36:], sectionFlags)
		va = align(va+uint32(len(s.data)), pageSize)
		offset += raw
		added += raw
	}
	pe := head[table.pe:]
	le.PutUint16(pe[coffSections:], le.Uint16(pe[coffSections:])+uint16(len(sections)))
	le.PutUint32(opt[optInitialized:], le.Uint32(opt[optInitialized:])+added)
	le.PutUint32(opt[optImageSize:], align(va, le.Uint32(opt[optSectionAlign:])))
	le.PutUint32(opt[optCheckSum:], 0) // UEFI does not look at it, and it must not be wrong

	// Symbols behind the stub's last section would be a gap between sections, which
	// Authenticode does not hash.
	le.PutUint32(pe[coffSymbols:], 0)
	le.PutUint32(pe[coffSymbolCount:], 0)
	stub := bytes.Clone(p.Stub[:table.lastByte])
	copy(stub, head)
	if err := writePadded(w, stub, fileAlign); err != nil {
		return fmt.Errorf("uki: %w", err)
	}
	for _, s := range sections {
		if err := writePadded(w, s.data, fileAlign); err != nil {
			return fmt.Errorf("uki: %s: %w", s.name, err)
		}
	}
	return nil
}

// sections returns the parts in the order of the specification, or every fault.
func (p Parts) sections() ([]section, error) {
	var faults []error
	if strings.ContainsAny(p.Cmdline, "\n\x00") {
		faults = append(faults, errors.New("uki: kernel line has a line feed or a zero byte"))
	}
	all := []section{
		{".osrel", []byte(p.OSRelease)}, {".cmdline", []byte(p.Cmdline)}, {".uname", []byte(p.Uname)},
		{".initrd", p.Initrd}, {".linux", p.Linux},
	}
	for _, s := range all {
		switch {
		case len(s.data) == 0:
			faults = append(faults, fmt.Errorf("uki: %s is empty", s.name))
		case len(s.data) > maxPart:
			faults = append(faults, fmt.Errorf("uki: %s has %d bytes, more than %d", s.name, len(s.data), maxPart))
		}
	}
	return all, errors.Join(faults...)
}

// layout says where in the stub things are.
type layout struct {
	pe, optional, end int    // offsets: PE signature, optional header, end of the section table
	lastVA            uint32 // first address after the last section
	lastByte          uint32 // of the file: the first after every section
}

// open returns a copy of the stub's headers and their layout, after making sure
// that n more section headers fit in before the first section's bytes.
func open(stub []byte, n int) ([]byte, layout, error) {
	f, err := pe.NewFile(bytes.NewReader(stub))
	if err != nil {
		return nil, layout{}, err
	}
	defer f.Close()
	opt, ok := f.OptionalHeader.(*pe.OptionalHeader64)
	if !ok {
		return nil, layout{}, errors.New("is not a PE32+ file")
	}
	if len(f.Sections) == 0 || len(f.Sections)+n > maxSections {
		return nil, layout{}, fmt.Errorf("has %d sections, want 1 to %d", len(f.Sections), maxSections-n)
	}
	if !powerOfTwo(opt.FileAlignment) || !powerOfTwo(opt.SectionAlignment) || max(opt.FileAlignment, opt.SectionAlignment) > maxAlign {
		return nil, layout{}, fmt.Errorf("has an alignment of %d in the file and %d in memory, want powers of 2 up to %d", opt.FileAlignment, opt.SectionAlignment, maxAlign)
	}
	if opt.NumberOfRvaAndSizes > 4 && opt.DataDirectory[4].Size != 0 {
		return nil, layout{}, errors.New("is signed already: a UKI is signed as a whole, use the unsigned stub")
	}
	var l layout
	l.pe = int(binary.LittleEndian.Uint32(stub[peOffsetAt:]))
	if l.pe < peOffsetAt+4 {
		return nil, layout{}, fmt.Errorf("has its PE header at byte %d, within the DOS header", l.pe)
	}
	l.optional = l.pe + optionalAt
	l.end = l.optional + int(f.FileHeader.SizeOfOptionalHeader) + len(f.Sections)*sectionHeaderSize
	for i, s := range f.Sections {
		if err := usable(s, stub[l.end-(len(f.Sections)-i)*sectionHeaderSize:], len(stub)); err != nil {
			return nil, layout{}, fmt.Errorf("section %q %w", s.Name, err)
		}
		l.lastVA = max(l.lastVA, s.VirtualAddress+max(s.VirtualSize, s.Size))
		if s.Size > 0 {
			l.lastByte = max(l.lastByte, s.Offset+s.Size)
		}
	}
	l.lastByte = max(l.lastByte, opt.SizeOfHeaders)
	room := int(opt.SizeOfHeaders)
	if room > len(stub) || l.end+n*sectionHeaderSize > room {
		return nil, layout{}, fmt.Errorf("has no room for %d more section headers: the table would end at %d of %d", n, l.end+n*sectionHeaderSize, room)
	}
	return bytes.Clone(stub[:room]), l, nil
}

// usable refuses a section that does not lie in a file of size bytes, or that
// needs what lies behind the sections, which a UKI does not keep: relocations and
// line numbers of an object file, a name in the string table ("/4").
func usable(s *pe.Section, header []byte, size int) error {
	switch {
	case uint64(s.Offset)+uint64(s.Size) > uint64(size):
		return fmt.Errorf("ends at byte %d of %d", uint64(s.Offset)+uint64(s.Size), size)
	case uint64(s.VirtualAddress)+uint64(max(s.VirtualSize, s.Size)) > maxImage:
		return fmt.Errorf("lies at %#x in memory, beyond %#x", s.VirtualAddress, uint32(maxImage))
	case s.NumberOfRelocations > 0 || s.NumberOfLineNumbers > 0:
		return errors.New("has relocations or line numbers, as in an object file")
	case header[0] == '/':
		return errors.New("has its name in the string table")
	}
	return nil
}

func powerOfTwo(n uint32) bool { return n > 0 && n&(n-1) == 0 }

func align(n, to uint32) uint32 { return (n + to - 1) / to * to }

func writePadded(w io.Writer, data []byte, to uint32) error {
	if _, err := w.Write(data); err != nil {
		return err
	}
	pad := int(align(uint32(len(data)), to)) - len(data)
	_, err := w.Write(make([]byte, pad))
	return err
}
