package control

import (
	"context"
	"fmt"
	"strings"

	"ward/initramfs/handoff"
)

const rootVerified = "dm-verity with the digest of the kernel line, no block differs, nothing can be written"

// checkVerifiedRoot asks the kernel what root is, and tries to write to it. The status of
// dm-verity is V until a block was read that differs, and C from then on
// (Documentation/admin-guide/device-mapper/verity.rst).
func checkVerifiedRoot(ctx context.Context, m *Machine) (string, error) {
	line, err := m.Run(ctx, "cat", "/proc/cmdline")
	if err != nil {
		return "", err
	}
	var want handoff.Verity
	for word := range strings.FieldsSeq(line) {
		if value, ok := strings.CutPrefix(word, handoff.VerityWord+"="); ok {
			if want, err = handoff.ParseVerity(value); err != nil {
				return "", err
			}
		}
	}
	var faults []string
	if want.Digest == "" {
		faults = append(faults, "the kernel line names no digest")
	}
	source, err := m.Run(ctx, "findmnt", "--noheadings", "--output", "SOURCE", "/")
	if err != nil {
		return "", err
	}
	if s := strings.TrimSpace(source); s != "/dev/mapper/"+handoff.VerityName {
		return strings.Join(append(faults, "root is "+s), "; "), nil
	}
	table, err := m.Run(ctx, "dmsetup", "table", handoff.VerityName)
	if err != nil {
		return "", err
	}
	// 0 SECTORS verity 1 DATA HASH 4096 4096 BLOCKS START sha256 DIGEST SALT
	if f := strings.Fields(table); len(f) < 13 || f[2] != "verity" || want.Digest == "" || f[11] != want.Digest || f[12] != want.Salt || len(f) > 13 {
		faults = append(faults, "the table is "+strings.TrimSpace(table))
	}
	status, err := m.Run(ctx, "dmsetup", "status", handoff.VerityName)
	if err != nil {
		return "", err
	}
	switch f := strings.Fields(status); {
	case len(f) != 4 || f[2] != "verity":
		return "", fmt.Errorf("dmsetup status printed %q", status)
	case f[3] == "C":
		faults = append(faults, "a block of root differs from its digest")
	case f[3] != "V":
		return "", fmt.Errorf("dmsetup status printed %q", status)
	}
	for _, dir := range []string{"/usr", "/boot"} {
		out, err := m.Run(ctx, "sh", "-c", "LC_ALL=C touch "+dir+"/.ward-verity 2>&1; rm -f "+dir+"/.ward-verity 2>/dev/null; true")
		if err != nil {
			return "", err
		}
		if !strings.Contains(out, "Read-only file system") {
			faults = append(faults, dir+" can be written to")
		}
	}
	return orFaults(faults, rootVerified), nil
}
