package uki

import (
	"bytes"
	"debug/pe"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const stubPath = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub"

func parts(t *testing.T) Parts {
	t.Helper()
	stub, err := os.ReadFile(stubPath)
	if err != nil {
		t.Fatalf("%v (package systemd-boot-efi)", err)
	}
	return Parts{
		Stub: stub, Linux: bytes.Repeat([]byte("kernel"), 5000), Initrd: bytes.Repeat([]byte("cpio"), 777),
		Cmdline: "root=PARTUUID=x ro", OSRelease: "ID=debian\n", Uname: "6.1.0",
	}
}

func TestWriteKeepsEveryPart(t *testing.T) {
	p := parts(t)
	var out bytes.Buffer
	if err := Write(&out, p); err != nil {
		t.Fatal(err)
	}
	f, err := pe.NewFile(bytes.NewReader(out.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		".osrel": p.OSRelease, ".cmdline": p.Cmdline, ".uname": p.Uname, ".linux": string(p.Linux), ".initrd": string(p.Initrd),
	}
	for name, text := range want {
		s := f.Section(name)
		if s == nil {
			t.Errorf("no section %s", name)
			continue
		}
		got, err := s.Data()
		if err != nil || string(got[:s.VirtualSize]) != text {
			t.Errorf("%s: %v, %d bytes, want %d", name, err, len(got), len(text))
		}
		if s.VirtualAddress%pageSize != 0 {
			t.Errorf("%s is at %#x in memory, not at a page", name, s.VirtualAddress)
		}
	}
	for i, s := range f.Sections[1:] {
		if before := f.Sections[i]; s.VirtualAddress < before.VirtualAddress+before.VirtualSize {
			t.Errorf("%s overlaps %s in memory", s.Name, before.Name)
		}
	}
}

// What a stub has behind its section table does not get into our headers.
func TestWriteClearsHeaders(t *testing.T) {
	clean, dirty := parts(t), parts(t)
	_, l, err := open(clean.Stub, 5)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 5 * sectionHeaderSize {
		dirty.Stub[l.end+i] = 0xff
	}
	var a, b bytes.Buffer
	if err := errors.Join(Write(&a, clean), Write(&b, dirty)); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a.Bytes(), b.Bytes()) {
		t.Error("bytes behind the stub's section table changed the UKI")
	}
}

// objcopy reads what we wrote: a second opinion on the section table.
func TestObjcopyReadsIt(t *testing.T) {
	p := parts(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "a.efi")
	var out bytes.Buffer
	if err := Write(&out, p); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, out.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	dump := filepath.Join(dir, "cmdline")
	if text, err := exec.Command("objcopy", "-O", "binary", "--dump-section", ".cmdline="+dump, file, filepath.Join(dir, "x")).CombinedOutput(); err != nil {
		t.Fatalf("objcopy: %v: %s", err, text)
	}
	got, err := os.ReadFile(dump)
	if err != nil || strings.TrimRight(string(got), "\x00") != p.Cmdline {
		t.Errorf("objcopy found the kernel line %q, want %q (%v)", got, p.Cmdline, err)
	}
}

func TestWriteRefuses(t *testing.T) {
	full := parts(t)
	for name, c := range map[string]struct {
		change func(*Parts)
		want   string
	}{
		"no kernel":    {func(p *Parts) { p.Linux = nil }, ".linux is empty"},
		"two lines":    {func(p *Parts) { p.Cmdline = "a\nb" }, "line feed"},
		"not PE":       {func(p *Parts) { p.Stub = []byte("#!/bin/sh") }, "stub"},
		"cut off":      {func(p *Parts) { p.Stub = p.Stub[:200] }, "stub"},
		"an object":    {func(p *Parts) { p.Stub = section1(p.Stub, 32, 1) }, "has relocations or line numbers"},
		"long name":    {func(p *Parts) { p.Stub = section1(p.Stub, 0, '/'|'4'<<8) }, "has its name in the string table"},
		"past its end": {func(p *Parts) { p.Stub = section1(p.Stub, 20, 0xffffff00) }, "ends at byte"},
		"high memory":  {func(p *Parts) { p.Stub = section1(p.Stub, 12, 0xfffff000) }, "beyond 0x80000000"},
		"early header": {func(p *Parts) { p.Stub = early(p.Stub) }, "within the DOS header"},
		"alignment":    {func(p *Parts) { p.Stub = bytes.Clone(p.Stub); le32(p.Stub, 0x80+optionalAt+optFileAlign, 3) }, "want powers of 2"},
		"no room left": {func(p *Parts) { p.Stub = bytes.Clone(p.Stub); le32(p.Stub, 0x80+optionalAt+optHeadersSize, 0x2d0) }, "no room"},
	} {
		t.Run(name, func(t *testing.T) {
			p := full
			c.change(&p)
			err := Write(&bytes.Buffer{}, p)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Write() = %v, want an error that says %q", err, c.want)
			}
		})
	}
}

// section1 returns the stub with a field of its first section's header set.
func section1(stub []byte, field int, v uint32) []byte {
	stub = bytes.Clone(stub)
	size := int(stub[0x80+coffOptionalSize]) | int(stub[0x80+coffOptionalSize+1])<<8
	le32(stub, 0x80+optionalAt+size+field, v)
	return stub
}

// early returns the stub with its PE header at byte 4, so that its alignment in
// memory is also where that header is.
func early(stub []byte) []byte {
	stub = append(bytes.Clone(stub[:4]), stub[0x80:]...)
	le32(stub, peOffsetAt, 4)
	le32(stub, 4+coffSymbols, 0)
	le32(stub, 4+coffSymbolCount, 0)
	return stub
}

func le32(b []byte, at int, v uint32) {
	b[at], b[at+1], b[at+2], b[at+3] = byte(v), byte(v>>8), byte(v>>16), byte(v>>24)
}

func FuzzStub(f *testing.F) {
	if stub, err := os.ReadFile(stubPath); err == nil {
		f.Add(stub[:2048])
		f.Add(stub)
	}
	f.Add([]byte("MZ"))
	f.Fuzz(func(t *testing.T, stub []byte) {
		var out bytes.Buffer
		p := Parts{Stub: stub, Linux: []byte("k"), Initrd: []byte("i"), Cmdline: "c", OSRelease: "o", Uname: "u"}
		if err := Write(&out, p); err == nil {
			if f, err := pe.NewFile(bytes.NewReader(out.Bytes())); err != nil || f.Section(".linux") == nil {
				t.Errorf("a UKI of %d bytes that cannot be read again: %v", out.Len(), err)
			}
		}
	})
}
