package boot

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/anatol/devmapper.go"
	"golang.org/x/sys/unix"

	"ward/initramfs/boot/disks"
	"ward/initramfs/handoff"
)

// verity is what the kernel line says root must be; ok is false where root is not
// verified. An image with a verified root refuses a line that leaves it out.
func (m *machine) verity() (v handoff.Verity, ok bool, err error) {
	word, ok := m.line.Get(handoff.VerityWord)
	if !ok {
		if m.config.Verity {
			return v, false, fmt.Errorf("the kernel line has no %s=, and this image has a verified root", handoff.VerityWord)
		}
		return v, false, nil
	}
	v, err = handoff.ParseVerity(word)
	return v, true, err
}

// mapVerity makes /dev/mapper/root: reading a block of it that differs from what
// the kernel line has the digest of is an error. Nothing on the partition is
// believed before: where the tree begins and what its root is are in the line.
func (m *machine) mapVerity(b disks.Block, v handoff.Verity) (string, error) {
	f, err := os.Open(b.Path)
	if err != nil {
		return "", err
	}
	size, err := f.Seek(0, 2)
	f.Close()
	if err != nil {
		return "", err
	}
	if need := int64(v.Blocks+handoff.VerityTree(v.Blocks)) * handoff.VerityBlock; size < need {
		return "", fmt.Errorf("%s has %d bytes, data and hash tree have %d: it is not the root of this kernel image", b.Path, size, need)
	}
	for _, module := range []string{"sha256_ssse3", "dm_verity"} {
		if err := m.modules.Load(module); err != nil && module == "dm_verity" {
			return "", err
		}
	}
	uuid := "CRYPT-VERITY-" + v.Digest[:32] + "-" + handoff.VerityName // as veritysetup makes it
	err = devmapper.CreateAndLoad(handoff.VerityName, uuid, devmapper.ReadOnlyFlag, devmapper.VerityTable{
		Length: v.Blocks * handoff.VerityBlock, HashType: 1, DataDevice: b.Path, HashDevice: b.Path,
		DataBlockSize: handoff.VerityBlock, HashBlockSize: handoff.VerityBlock,
		NumDataBlocks: v.Blocks, HashStartBlock: v.Blocks, Algorithm: "sha256", Digest: v.Digest, Salt: v.Salt,
	})
	if err != nil {
		return "", fmt.Errorf("map the verified root: %w", err)
	}
	return "/dev/mapper/" + handoff.VerityName, announce(handoff.VerityName)
}

// notVerified says what an error of reading a verified root means.
func notVerified(err error) error {
	if errors.Is(err, syscall.EIO) || errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.EUCLEAN) {
		return fmt.Errorf("%w: the root partition is not what this kernel image was made with, or is damaged", err)
	}
	return err
}

// isState matches the partition with what a machine of a verified root writes.
func isState(b disks.Block) bool {
	return b.PartType == handoff.StateType && b.PartLabel == handoff.StateLabel
}

// overlay mounts the state partition, and over each folder that can be written to
// what was written there.
func (m *machine) overlay() error {
	limit := m.timeout(rootTimeout)
	ctx, cancel := m.context(limit)
	defer cancel()
	found, err := m.disks.Wait(ctx, isState)
	if err != nil {
		return fmt.Errorf("no partition %q appeared in %s, and a verified root needs it", handoff.StateLabel, limit)
	}
	if len(found) > 1 {
		return fmt.Errorf("%s and %s are both %q: detach the copy", found[0].Path, found[1].Path, handoff.StateLabel)
	}
	for _, module := range []string{"ext4", "overlay"} {
		if err := m.modules.Load(module); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(handoff.StateMount, 0o700); err != nil {
		return err
	}
	if err := unix.Mount(found[0].Path, handoff.StateMount, "ext4", unix.MS_NOSUID|unix.MS_NODEV, ""); err != nil {
		return fmt.Errorf("mount %s: %w", found[0].Path, err)
	}
	if err := os.Chmod(handoff.StateMount, 0o700); err != nil { // nobody goes around an overlay
		return err
	}
	for _, name := range handoff.Overlaid {
		lower := filepath.Join(sysroot, name)
		upper, work, err := layers(handoff.StateMount, lower, name)
		if err != nil {
			return fmt.Errorf("overlay of /%s: %w", name, err)
		}
		options := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s,redirect_dir=on", lower, upper, work)
		if err := unix.Mount("ward-"+name, lower, "overlay", unix.MS_NODEV, options); err != nil {
			return fmt.Errorf("overlay of /%s: %w", name, err)
		}
	}
	m.log.Info("state is mounted", "device", found[0].Path)
	return nil
}

// layers makes the folders of one overlay on the state partition. The upper one is
// what the merged folder looks like, so it gets the lower one's mode and owner.
func layers(state, lower, name string) (upper, work string, err error) {
	var st unix.Stat_t
	if err := unix.Stat(lower, &st); err != nil {
		return "", "", err
	}
	upper, work = filepath.Join(state, name, "upper"), filepath.Join(state, name, "work")
	for _, dir := range []string{upper, work} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return "", "", err
		}
	}
	return upper, work, errors.Join(os.Chown(upper, int(st.Uid), int(st.Gid)), unix.Chmod(upper, st.Mode&0o7777))
}
