// Package loader knows what the boot loaders find on the EFI system partition:
// the names of UKIs with their boot counters, for systemd-boot, and the files that
// syslinux starts under a BIOS. The builder writes the first of them, wardctl the
// next ones.
//
//	name := loader.UKI{Version: "6.1.0-56-cloud-amd64", Tries: 3}.Name() // ward-6.1.0-56-cloud-amd64+3.efi
package loader

import (
	"fmt"
	"path"
	"regexp"
	"strconv"
	"strings"
)

const (
	// UKIDir is where systemd-boot looks for UKIs: Boot Loader Specification, type 2.
	UKIDir = "EFI/Linux"
	// Tries is how often a new kernel may fail to finish a boot before the loader
	// prefers the one that worked: Automatic Boot Assessment of systemd.
	Tries = 3

	prefix = "ward-"
	suffix = ".efi"
	// oldMark sorts before everything, also before nothing, in the order by which
	// systemd-boot compares names (strverscmp_improved): the former UKI of a version
	// comes after the present one.
	oldMark = "~old"
)

// UKI is the name of one UKI.
type UKI struct {
	Version string // of the kernel
	Old     bool   // what Version had before it was made anew
	// Tries is how many boots are left to a kernel that has not finished one, and
	// Done how many it has used. Both are absent from the name of one that has.
	Counted     bool
	Tries, Done int
}

// New is the UKI of a kernel that was not started yet.
func New(version string) UKI { return UKI{Version: version, Counted: true, Tries: Tries} }

// Good is the UKI of the same kernel once it has finished a boot.
func (u UKI) Good() UKI { return UKI{Version: u.Version, Old: u.Old} }

// counter is the end of a counted name: +LEFT or +LEFT-DONE.
var counter = regexp.MustCompile(`\+([0-9]{1,9})(?:-([0-9]{1,9}))?$`)

// Parse reads the name of a file, with or without its folder.
func Parse(name string) (UKI, bool) {
	text, ours := strings.CutPrefix(path.Base(name), prefix)
	text, image := strings.CutSuffix(text, suffix)
	if !ours || !image {
		return UKI{}, false
	}
	var u UKI
	if at := counter.FindStringSubmatchIndex(text); at != nil {
		u.Counted = true
		u.Tries, _ = strconv.Atoi(text[at[2]:at[3]])
		if at[4] >= 0 {
			u.Done, _ = strconv.Atoi(text[at[4]:at[5]])
		}
		text = text[:at[0]]
	}
	u.Version, u.Old = strings.CutSuffix(text, oldMark)
	return u, u.Version != ""
}

// Name is the name of the file.
func (u UKI) Name() string {
	name := prefix + u.Version
	if u.Old {
		name += oldMark
	}
	if u.Counted {
		name += fmt.Sprintf("+%d", u.Tries)
		if u.Done > 0 {
			name += fmt.Sprintf("-%d", u.Done)
		}
	}
	return name + suffix
}

// Path is the name of the file with its folder.
func (u UKI) Path() string { return path.Join(UKIDir, u.Name()) }
