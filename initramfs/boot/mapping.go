package boot

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/anatol/devmapper.go"
	"github.com/anatol/luks.go"
	"golang.org/x/sys/unix"

	"ward/initramfs/boot/keysource"
)

// kernelFlags are the names that dm-crypt has for LUKS2's activation flags,
// Documentation/admin-guide/device-mapper/dm-crypt.rst.
var kernelFlags = map[string]string{
	luks.FlagAllowDiscards:       devmapper.CryptFlagAllowDiscards,
	luks.FlagSameCPUCrypt:        devmapper.CryptFlagSameCPUCrypt,
	luks.FlagSubmitFromCryptCPUs: devmapper.CryptFlagSubmitFromCryptCPUs,
	luks.FlagNoReadWorkqueue:     devmapper.CryptFlagNoReadWorkqueue,
	luks.FlagNoWriteWorkqueue:    devmapper.CryptFlagNoWriteWorkqueue,
}

// mapVolume makes /dev/mapper/NAME as `cryptsetup open` does: the same UUID of
// the mapping, the same description of the key in the keyring.
func mapVolume(name string, v *luks.Volume, key *keysource.Key) error {
	if v.StorageSectorSize == 0 || v.StorageSize%v.StorageSectorSize != 0 || v.StorageOffset%v.StorageSectorSize != 0 {
		return refusal{fmt.Errorf("map: %d bytes at %d are not whole sectors of %d", v.StorageSize, v.StorageOffset, v.StorageSectorSize)}
	}
	var flags []string
	for _, f := range v.Flags {
		k, ok := kernelFlags[f]
		if !ok {
			return refusal{fmt.Errorf("map: flag %q is not known", f)}
		}
		flags = append(flags, k)
	}
	description := "cryptsetup:" + v.UUID + "-d0"
	// A logon key cannot be read back by anybody, keyrings(7), and the kernel wipes
	// a key that it frees. The keyring is that of one thread, so that thread must
	// do both.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	id, err := unix.AddKey("logon", description, key.Bytes(), unix.KEY_SPEC_THREAD_KEYRING)
	if err != nil {
		return fmt.Errorf("map: key to the kernel: %w", err)
	}
	err = devmapper.CreateAndLoad(name, mappingUUID(v, name), 0, devmapper.CryptTable{
		Length: v.StorageSize, BackendDevice: v.BackingDevice, BackendOffset: v.StorageOffset,
		Encryption: v.StorageEncryption, KeyID: fmt.Sprintf(":%d:logon:%s", len(key.Bytes()), description),
		IVTweak: v.StorageIvTweak, Flags: flags, SectorSize: v.StorageSectorSize,
	})
	_, unlinkErr := unix.KeyctlInt(unix.KEYCTL_UNLINK, id, unix.KEY_SPEC_THREAD_KEYRING, 0, 0)
	if err = errors.Join(err, unlinkErr); err != nil {
		return fmt.Errorf("map: %w", err)
	}
	return nil
}

// mappingUUID is what cryptsetup's dm_prepare_uuid makes; its tools and systemd
// know an encrypted volume by it.
func mappingUUID(v *luks.Volume, name string) string {
	return fmt.Sprintf("CRYPT-%s-%s-%s", v.LuksType, strings.ReplaceAll(v.UUID, "-", ""), name)
}

// announce leaves a new mapping as udev would have found it if it had run: the
// link in /dev/mapper, and an entry in udev's database. Without the entry the
// rules of device-mapper take the event of the coldplug after switch root for a
// mapping that is not ready, and systemd waits 90 seconds for the device
// (55-dm.rules, "DM_UDEV_PRIMARY_SOURCE_FLAG").
func announce(name string) error {
	info, err := devmapper.InfoByName(name)
	if err != nil {
		return fmt.Errorf("map: %w", err)
	}
	major, minor := unix.Major(info.DevNo), unix.Minor(info.DevNo)
	if err := os.MkdirAll("/dev/mapper", 0o755); err != nil {
		return err
	}
	link := filepath.Join("/dev/mapper", name)
	if err := os.Symlink(fmt.Sprintf("../dm-%d", minor), link); err != nil {
		return fmt.Errorf("map: %w", err)
	}
	if err := os.MkdirAll("/run/udev/data", 0o755); err != nil {
		return err
	}
	entry := udevEntry(name, info.UUID)
	return writeFile(fmt.Sprintf("/run/udev/data/b%d:%d", major, minor), []byte(entry), 0o644)
}

// udevEntry is an entry of udev's database, systemd's
// src/libsystemd/sd-device/device-private.c: S is a link, E a property, V the
// version of the format.
func udevEntry(name, uuid string) string {
	return "S:mapper/" + name + "\n" +
		"E:DM_UDEV_PRIMARY_SOURCE_FLAG=1\n" +
		"E:DM_UDEV_RULES=1\n" +
		"E:DM_UDEV_RULES_VSN=2\n" +
		"E:DM_ACTIVATION=1\n" +
		"E:DM_NAME=" + name + "\n" +
		"E:DM_UUID=" + uuid + "\n" +
		"E:DM_SUSPENDED=0\n" +
		"V:1\n"
}

// writeFile writes by way of a temporary name, so that no reader sees half.
func writeFile(path string, data []byte, mode os.FileMode) error {
	tmp := path + ".new"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	if _, err := f.Write(data); err != nil {
		f.Close()
		return err
	}
	if err := f.Close(); err != nil { // no fsync: /run is memory
		return err
	}
	return os.Rename(tmp, path)
}
