package builder

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"

	"ward/builder/disk"
	"ward/images"
	"ward/profiles"
)

// verified tells whether root is read-only and verified by dm-verity.
func (b *build) verified() bool { return b.Profile.Controls.Integrity.Root == profiles.RootVerity }

// salt of the hash tree, from the inputs: it only keeps two images' trees apart.
func (b *build) salt() string {
	if !b.verified() {
		return ""
	}
	sum := sha256.Sum256([]byte(b.digest + "/verity"))
	return hex.EncodeToString(sum[:])
}

// verifiedFstab is the fstab of a root that init has mounted and that stays as it is.
// What would be written beside the overlaid folders is memory.
func (b *build) verifiedFstab() string {
	return fmt.Sprintf(`# /etc/fstab: see fstab(5). The PHI volume's line is added when the machine formats it.
/dev/mapper/root / ext4 ro 0 0
tmpfs /tmp tmpfs nosuid,nodev,mode=1777,size=25%% 0 0
PARTUUID=%s /efi vfat noauto,umask=0077 0 0
`, b.id("esp"))
}

// state makes the file system of the state partition, if there is one: empty, the
// machine's init fills it.
func (b *build) state(ctx context.Context) (root disk.Root, remove func(), err error) {
	if !b.verified() {
		return disk.Root{}, func() {}, nil
	}
	size := b.Image.Disk.State
	if size == 0 {
		size = images.DefaultState
	}
	empty, file := filepath.Join(b.work, "empty"), filepath.Join(b.work, "state.ext4")
	remove = func() { os.Remove(empty); os.Remove(file) }
	if err := os.Mkdir(empty, 0o700); err != nil {
		return disk.Root{}, remove, err
	}
	err = disk.WriteExt4(ctx, b.Log, file, disk.Ext4{Tree: empty, UUID: b.id("state file system"), Label: "ward-state", Size: size.Bytes(), Epoch: b.epoch()})
	return disk.Root{GUID: b.id("state"), Size: size.Bytes(), File: file}, remove, err
}
