package initramfs

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"ward/initramfs/kmod"
)

// choice is what Spec.Modules means for one kernel.
type choice struct {
	load  []string // names to load at once, in the order asked for
	files []string // names whose files are in the image, dependencies first
}

// choose resolves the words of Spec.Modules against a kernel's tables.
func choose(t *kmod.Table, words []string) (choice, error) {
	var c choice
	var want []string
	var errs []error
	add := func(s Set) {
		for _, group := range [][]string{s.Load, s.Have} {
			for _, entry := range group {
				for m := range strings.SplitSeq(entry, "|") {
					if _, missing := t.Closure(m); len(missing) == 0 {
						want = append(want, m)
					}
				}
			}
		}
		c.load = append(c.load, s.Load...)
	}
	sets := map[string]Set{}
	for _, s := range Sets {
		sets[s.Name] = s
	}
	for _, w := range words {
		if parts, ok := composed[w]; ok {
			for _, p := range parts {
				add(sets[p])
			}
			continue
		}
		if s, ok := sets[w]; ok {
			add(s)
			continue
		}
		// A module that somebody names must exist: to leave it out in silence
		// would be an image that cannot find its disk.
		if _, missing := t.Closure(w); len(missing) > 0 {
			errs = append(errs, fmt.Errorf("modules: this kernel has no module %q; sets are %s", w, strings.Join(SetNames(), ", ")))
			continue
		}
		want, c.load = append(want, w), append(c.load, w)
	}
	if err := errors.Join(errs...); err != nil {
		return choice{}, err
	}
	// Last: the drivers of disks are what everything else waits for.
	add(sets["base"])
	c.files, _ = t.Closure(want...)
	c.load = trimLoad(t, c)
	return c, nil
}

// trimLoad keeps of the names to load those that are files of the image, once.
func trimLoad(t *kmod.Table, c choice) []string {
	var out []string
	for _, entry := range c.load {
		var have []string
		for n := range strings.SplitSeq(entry, "|") {
			if n = kmod.Name(n); slices.Contains(c.files, n) {
				have = append(have, n)
			}
		}
		if e := strings.Join(have, "|"); e != "" && !slices.Contains(out, e) {
			out = append(out, e)
		}
	}
	return out
}

// SetNames lists the words that stand for a set of modules, sorted.
func SetNames() []string {
	names := slices.Collect(maps.Keys(composed))
	for _, s := range Sets {
		names = append(names, s.Name)
	}
	slices.Sort(names)
	return names
}

// depFile is modules.dep for the files of the image only. Files are plain .ko
// there, whatever they were compressed with.
func depFile(t *kmod.Table, files []string) []byte {
	var b strings.Builder
	for _, name := range slices.Sorted(slices.Values(files)) {
		fmt.Fprintf(&b, "%s:", plain(t.Path[name]))
		// Soft dependencies are written as plain ones: init then has one rule. Only
		// what comes earlier in the closure is written, so the file has no circle
		// even if soft dependencies make one.
		for _, d := range slices.Concat(t.Deps[name], t.Soft[name]) {
			if i := slices.Index(files, d); i >= 0 && i < slices.Index(files, name) {
				b.WriteString(" " + plain(t.Path[d]))
			}
		}
		b.WriteByte('\n')
	}
	return []byte(b.String())
}

// noAlias are modules that no device loads: their users ask for them by name, and
// each module costs a signature check at boot.
var noAlias = []string{"qemu_fw_cfg"}

// aliasFile is modules.alias for the files of the image only.
func aliasFile(t *kmod.Table, files []string) []byte {
	var b strings.Builder
	for _, a := range t.Aliases {
		if slices.Contains(files, a.Module) && !slices.Contains(noAlias, a.Module) {
			fmt.Fprintf(&b, "alias %s %s\n", a.Pattern, a.Module)
		}
	}
	return []byte(b.String())
}
