// Package initramfs builds ward's initramfs: a newc cpio archive, compressed
// with zstd, that holds ward-init, its configuration and the kernel modules that
// the machine needs before its root file system is mounted. Build is pure: it
// reads nothing but its Spec and gives the same bytes for the same Spec. It runs
// on the build host and, for kernel updates, on the machine itself.
//
// The init binary is made by
//
//	CGO_ENABLED=0 go build -trimpath -ldflags '-s -w -buildid=' -o init ./initramfs/cmd/init
//
// with "-tags netkeys" for an init that can also fetch keys over the network
// (https, tang) and from a TPM. Folder boot is what it does.
package initramfs

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"

	"github.com/klauspost/compress/zstd"
	"github.com/u-root/u-root/pkg/cpio"

	"ward/initramfs/handoff"
	"ward/initramfs/kmod"
)

// Spec is everything that Build needs.
type Spec struct {
	Init          []byte // the ward-init binary: static, for the machine's CPU
	KernelVersion string // what uname -r will say, for example "6.1.0-56-cloud-amd64"
	ModulesFS     fs.FS  // the folder lib/modules/KernelVersion of the machine
	// Modules are names of modules or of sets (SetNames); empty means "virtio". The
	// set "base" is always added.
	Modules []string
	// Config is written to handoff.ConfigPath; Config.Modules is filled in by Build
	// after the modules that are given there.
	Config handoff.Config
	// Keys are key files to embed, by the names that Config gives them. Everybody
	// who reads the image has them: for laboratories.
	Keys map[string][]byte
	// Files are further files, by path without a leading slash; mode 0400.
	Files map[string][]byte
}

// Result says what Build put into the image.
type Result struct {
	Modules []string // names of the modules, dependencies first
	Load    []string // those that init loads at once
	Bytes   int64    // size of the archive before compression
}

// Build writes the initramfs for spec to w. Every fault of spec is in the error.
func Build(w io.Writer, spec Spec) (Result, error) {
	if err := spec.check(); err != nil {
		return Result{}, err
	}
	table, err := kmod.Read(spec.ModulesFS)
	if err != nil {
		return Result{}, err
	}
	words := spec.Modules
	if len(words) == 0 {
		words = []string{"virtio"}
	}
	network, tpm := spec.Config.Needs()
	if network {
		words = append(slices.Clone(words), "net")
	}
	if tpm {
		words = append(slices.Clone(words), "tpm")
	}
	if spec.Config.Verity {
		words = append(slices.Clone(words), "verity")
	}
	c, err := choose(table, slices.Concat(words, spec.Config.Modules))
	if err != nil {
		return Result{}, err
	}
	records, err := spec.records(table, c)
	if err != nil {
		return Result{}, err
	}
	n, err := pack(w, records)
	return Result{Modules: c.files, Load: c.load, Bytes: n}, err
}

func (s Spec) check() error {
	var errs []error
	if !bytes.HasPrefix(s.Init, []byte("\x7fELF")) {
		errs = append(errs, errors.New("init: not an ELF file"))
	}
	if s.KernelVersion == "" || path.Base(s.KernelVersion) != s.KernelVersion || s.KernelVersion == ".." {
		errs = append(errs, fmt.Errorf("kernel version %q is not the name of a folder", s.KernelVersion))
	}
	if s.ModulesFS == nil {
		errs = append(errs, errors.New("modules: no folder given"))
	}
	for name := range s.Files {
		if !fs.ValidPath(name) || name == "init" {
			errs = append(errs, fmt.Errorf("files: %q is not a path of an own file", name))
		}
	}
	if err := s.Config.Validate(); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(append(errs, s.checkKeys())...)
}

// checkKeys refuses a key that init would not look at, and a source without one:
// the first would be a secret in the image for nothing, the second a machine that
// stays locked.
func (s Spec) checkKeys() error {
	var errs []error
	known := map[string]bool{}
	for _, v := range s.Config.Volumes {
		known[v.KeyFile] = true
	}
	embedded := slices.ContainsFunc(s.Config.Sources, func(x handoff.Source) bool { return x.Type == "embedded" })
	switch {
	case embedded && len(s.Keys) == 0:
		errs = append(errs, errors.New("keys: a source is embedded and there is no key to embed"))
	case !embedded && len(s.Keys) > 0:
		errs = append(errs, errors.New("keys: there is a key to embed and no source is embedded"))
	}
	for _, name := range slices.Sorted(maps.Keys(s.Keys)) {
		if !known[name] {
			errs = append(errs, fmt.Errorf("keys: no volume has the key file %q", name))
		}
		if n := len(s.Keys[name]); n < handoff.MinKey || n > handoff.MaxKey {
			errs = append(errs, fmt.Errorf("keys: %s has %d bytes, want %d to %d", name, n, handoff.MinKey, handoff.MaxKey))
		}
	}
	return errors.Join(errs...)
}

func (s Spec) records(t *kmod.Table, c choice) ([]cpio.Record, error) {
	config := s.Config
	config.Modules = c.load
	text, err := json.Marshal(config)
	if err != nil {
		return nil, err
	}
	base := path.Join("lib/modules", s.KernelVersion)
	rs := []cpio.Record{
		// The kernel opens /dev/console for init before anything is mounted.
		cpio.Directory("dev", 0o755),
		cpio.CharDev("dev/console", 0o600, 5, 1),
		cpio.Directory("proc", 0o555), cpio.Directory("sys", 0o555), cpio.Directory("run", 0o755), cpio.Directory("sysroot", 0o755),
		cpio.StaticFile("init", string(s.Init), 0o755),
		cpio.StaticFile(handoff.ConfigPath[1:], string(text)+"\n", 0o400),
		cpio.StaticFile(path.Join(base, "modules.dep"), string(depFile(t, c.files)), 0o644),
		cpio.StaticFile(path.Join(base, "modules.alias"), string(aliasFile(t, c.files)), 0o644),
	}
	for _, name := range slices.Sorted(maps.Keys(s.Keys)) {
		rs = append(rs, cpio.StaticFile(path.Join(handoff.KeysDir[1:], name), string(s.Keys[name]), 0o400))
	}
	for _, name := range slices.Sorted(maps.Keys(s.Files)) {
		rs = append(rs, cpio.StaticFile(name, string(s.Files[name]), 0o400))
	}
	for _, name := range c.files {
		data, err := readModule(s.ModulesFS, t.Path[name])
		if err != nil {
			return nil, fmt.Errorf("module %s: %w", name, err)
		}
		rs = append(rs, cpio.StaticFile(path.Join(base, plain(t.Path[name])), string(data), 0o644))
	}
	return withParents(rs), nil
}

// withParents adds the folders above each record, and sorts: the kernel makes no
// folder by itself, and the order must not depend on a map.
func withParents(rs []cpio.Record) []cpio.Record {
	have := map[string]bool{}
	for _, r := range rs {
		have[r.Name] = true
	}
	for _, r := range rs {
		for d := path.Dir(r.Name); d != "." && !have[d]; d = path.Dir(d) {
			have[d] = true
			rs = append(rs, cpio.Directory(d, 0o755))
		}
	}
	slices.SortStableFunc(rs, func(a, b cpio.Record) int { return bytes.Compare([]byte(a.Name), []byte(b.Name)) })
	return rs
}

// pack writes the records as newc cpio in zstd and gives the archive's plain size.
func pack(w io.Writer, rs []cpio.Record) (int64, error) {
	cpio.MakeAllReproducible(rs)
	// 8 MiB is the window that every kernel with CONFIG_RD_ZSTD accepts. One
	// goroutine: the output of several would be the same but is not promised to be.
	z, err := zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithWindowSize(8<<20),
		zstd.WithEncoderConcurrency(1))
	if err != nil {
		return 0, err
	}
	count := &counter{w: z}
	if err := archive(count, rs); err != nil {
		return 0, err
	}
	return count.n, z.Close()
}

// archive writes the records as newc cpio.
func archive(w io.Writer, rs []cpio.Record) error {
	out := cpio.Newc.Writer(w)
	if err := cpio.WriteRecords(out, rs); err != nil {
		return err
	}
	return cpio.WriteTrailer(out)
}

type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}
