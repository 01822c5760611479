// Package kmod reads the tables that depmod(8) writes beside kernel modules:
// modules.dep, modules.softdep, modules.alias and modules.builtin. It is shared
// by the builder, which takes the closure of what an initramfs needs, and by
// init, which loads it. It loads nothing itself.
//
//	t, err := kmod.Read(os.DirFS("/usr/lib/modules/" + version))
//	paths, missing := t.Closure("virtio_blk", "dm_crypt")
package kmod

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// Limits of what is read; the largest distribution kernel has about 6,500
// modules and 60,000 aliases.
const (
	maxFile  = 16 << 20
	maxLines = 200_000
)

// Table is what depmod knows of one kernel. Names are normalised with Name.
type Table struct {
	Path    map[string]string   // name -> path of the file, relative to the modules' folder
	Deps    map[string][]string // name -> names it needs loaded before it
	Soft    map[string][]string // name -> names that should be loaded before it if they exist ("pre" soft dependencies)
	Builtin map[string]bool     // names that are part of the kernel image
	Aliases []Alias             // in the order of modules.alias
}

// Alias ties a pattern (shell wildcards, as fnmatch(3)) to a module name.
type Alias struct {
	Pattern string
	Module  string
}

// suffixes of module files, by the kernel's CONFIG_MODULE_COMPRESS_*.
var suffixes = []string{".ko", ".ko.xz", ".ko.zst", ".ko.gz"}

// Name is the kernel's spelling of a module's name: the base name of the file
// without suffix, hyphens as underscores.
func Name(file string) string {
	n := path.Base(file)
	for _, s := range suffixes {
		if rest, ok := strings.CutSuffix(n, s); ok {
			n = rest
			break
		}
	}
	return strings.ReplaceAll(n, "-", "_")
}

// Read reads the tables of the kernel whose modules are in fsys (the folder
// lib/modules/VERSION). modules.dep must exist; the others may be absent.
func Read(fsys fs.FS) (*Table, error) {
	t := &Table{
		Path: map[string]string{}, Deps: map[string][]string{},
		Soft: map[string][]string{}, Builtin: map[string]bool{},
	}
	for _, f := range []struct {
		name     string
		required bool
		parse    func([]byte) error
	}{
		{"modules.dep", true, t.parseDep},
		{"modules.softdep", false, t.parseSoftdep},
		{"modules.alias", false, t.parseAlias},
		{"modules.builtin", false, t.parseBuiltin},
	} {
		data, err := readLimited(fsys, f.name)
		if errors.Is(err, fs.ErrNotExist) && !f.required {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("kernel modules: %w", err)
		}
		if err := f.parse(data); err != nil {
			return nil, fmt.Errorf("%s: %w", f.name, err)
		}
	}
	return t, nil
}

func readLimited(fsys fs.FS, name string) ([]byte, error) {
	info, err := fs.Stat(fsys, name)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxFile {
		return nil, fmt.Errorf("%s: %d bytes are more than the %d that a kernel can need", name, info.Size(), maxFile)
	}
	return fs.ReadFile(fsys, name)
}

// lines calls f with the number and the trimmed text of each line that is
// neither empty nor a comment.
func lines(data []byte, f func(n int, line string) error) error {
	sc := bufio.NewScanner(bytes.NewReader(data))
	sc.Buffer(make([]byte, 0, 64<<10), 1<<20)
	n := 0
	for sc.Scan() {
		n++
		if n > maxLines {
			return fmt.Errorf("more than %d lines", maxLines)
		}
		line := strings.TrimSpace(sc.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		if err := f(n, line); err != nil {
			return err
		}
	}
	return sc.Err()
}

// parseDep reads lines "kernel/a.ko: kernel/b.ko kernel/c.ko", modules.dep(5).
func (t *Table) parseDep(data []byte) error {
	return lines(data, func(n int, line string) error {
		file, rest, ok := strings.Cut(line, ":")
		if !ok {
			return fmt.Errorf("line %d: no colon after the module", n)
		}
		if err := checkPath(file); err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
		name := Name(file)
		t.Path[name] = file
		var deps []string
		for _, d := range strings.Fields(rest) {
			if err := checkPath(d); err != nil {
				return fmt.Errorf("line %d: %w", n, err)
			}
			deps = append(deps, Name(d))
		}
		t.Deps[name] = deps
		return nil
	})
}

// checkPath refuses a path that leads out of the modules' folder.
func checkPath(p string) error {
	if !fs.ValidPath(p) {
		return fmt.Errorf("%q is not a path below the modules' folder", p)
	}
	if !slices.ContainsFunc(suffixes, func(s string) bool { return strings.HasSuffix(p, s) }) {
		return fmt.Errorf("%q is not the file of a module", p)
	}
	if n := Name(p); n == "" || Name(n) != n { // ".ko", "a.ko.ko"
		return fmt.Errorf("%q has no name of a module", p)
	}
	return nil
}

// parseSoftdep reads lines "softdep NAME pre: A B post: C", modprobe.d(5).
func (t *Table) parseSoftdep(data []byte) error {
	return lines(data, func(n int, line string) error {
		f := strings.Fields(line)
		if len(f) < 2 || f[0] != "softdep" {
			return fmt.Errorf("line %d: want softdep NAME pre: ...", n)
		}
		name, pre := Name(f[1]), false
		for _, w := range f[2:] {
			switch w {
			case "pre:":
				pre = true
			case "post:":
				pre = false
			default:
				if pre {
					t.Soft[name] = append(t.Soft[name], Name(w))
				}
			}
		}
		return nil
	})
}

// parseAlias reads lines "alias PATTERN NAME".
func (t *Table) parseAlias(data []byte) error {
	return lines(data, func(n int, line string) error {
		f := strings.Fields(line)
		if len(f) < 3 || f[0] != "alias" {
			return fmt.Errorf("line %d: want alias PATTERN NAME", n)
		}
		// A pattern may hold blanks ("of:N*T*Cvendor, x"); the name never does.
		pattern := strings.TrimSpace(line[len("alias"):])
		pattern = strings.TrimSpace(strings.TrimSuffix(pattern, f[len(f)-1]))
		t.Aliases = append(t.Aliases, Alias{pattern, Name(f[len(f)-1])})
		return nil
	})
}

func (t *Table) parseBuiltin(data []byte) error {
	return lines(data, func(_ int, line string) error {
		t.Builtin[Name(line)] = true
		return nil
	})
}

// Closure returns the names of everything that must be in place to load the
// given modules, dependencies before what needs them, each once, in an order
// that depends on the input only. Built-in ones are left out. missing are the
// given names that this kernel has neither as module nor built in.
func (t *Table) Closure(names ...string) (order, missing []string) {
	seen := map[string]bool{}
	var visit func(name string) bool
	visit = func(name string) bool {
		if seen[name] || t.Builtin[name] {
			return true
		}
		if _, ok := t.Path[name]; !ok {
			return false
		}
		seen[name] = true // before its dependencies: a circle in the file ends here
		for _, d := range t.Deps[name] {
			visit(d)
		}
		for _, s := range t.Soft[name] {
			for _, m := range t.resolve(s) {
				visit(m)
			}
		}
		order = append(order, name)
		return true
	}
	for _, n := range names {
		name := Name(n)
		if visit(name) {
			continue
		}
		found := t.resolve(name)
		if len(found) == 0 {
			missing = append(missing, n)
		}
		for _, m := range found {
			visit(m)
		}
	}
	return order, missing
}

// resolve gives the modules for a name: itself, or those that have it as a
// plain alias ("crypto-crc32c" is crc32c_generic and crc32c_intel).
func (t *Table) resolve(name string) []string {
	if _, ok := t.Path[name]; ok || t.Builtin[name] {
		return []string{name}
	}
	var out []string
	for _, a := range t.Aliases {
		if strings.ReplaceAll(a.Pattern, "-", "_") == name && !slices.Contains(out, a.Module) {
			out = append(out, a.Module)
		}
	}
	return out
}

// Match returns the modules whose aliases match a device's MODALIAS, without
// those that are built in.
func (t *Table) Match(modalias string) []string {
	var out []string
	for _, a := range t.Aliases {
		if t.Builtin[a.Module] || slices.Contains(out, a.Module) {
			continue
		}
		if Glob(a.Pattern, modalias) {
			out = append(out, a.Module)
		}
	}
	return out
}
