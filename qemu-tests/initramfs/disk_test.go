package initramfs_test

import (
	"bytes"
	"crypto/aes"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/xts"

	"ward/initramfs/handoff"
)

// Sizes in MiB.
const (
	rootMiB = 24
	phiMiB  = 24
)

// marker is the first text of each volume, encrypted by the tests themselves:
// a machine that shows it has mapped the volume with the right key and offset.
const marker = "PHI begins here, 32 bytes of it."

const (
	rootPartUUID = "0b5f3b4a-6a63-4a70-8b5e-2f3a5b1c9d01"
	phiPartUUID  = "7c1d9a52-52a1-4a6f-9f0e-8d5b7a3c6e02"
)

// keys are what belongs to one volume.
type keys struct {
	file   []byte // key file
	volume []byte // volume key
	uuid   string
}

func newKeys(t *testing.T) keys {
	t.Helper()
	k := keys{file: make([]byte, 64), volume: make([]byte, 64)}
	rand.Read(k.file)
	rand.Read(k.volume)
	id := make([]byte, 16)
	rand.Read(id)
	id[6], id[8] = id[6]&0x0f|0x40, id[8]&0x3f|0x80
	k.uuid = fmt.Sprintf("%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:])
	return k
}

func run(t *testing.T, stdin []byte, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Stdin = bytes.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// luks makes the content of a PHI partition with cryptsetup: a LUKS2 volume whose
// first 32 bytes are the marker.
func luks(t *testing.T, k keys, extra ...string) []byte {
	t.Helper()
	dir := t.TempDir()
	img, vk, kf := filepath.Join(dir, "phi.img"), filepath.Join(dir, "vk"), filepath.Join(dir, "kf")
	write(t, img, make([]byte, phiMiB<<20))
	write(t, vk, k.volume)
	write(t, kf, k.file)
	args := append([]string{"luksFormat", "--batch-mode", "--type", "luks2", "--cipher", "aes-xts-plain64", "--key-size", "512",
		"--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--volume-key-file", vk, "--uuid", k.uuid, "--key-file", kf, "--sector-size", "512"}, extra...)
	run(t, nil, "cryptsetup", append(args, img)...)
	data, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	encryptMarker(t, k, data, 16<<20) // cryptsetup's default for LUKS2
	return data
}

// luks1 is luks in the older format.
func luks1(t *testing.T, k keys) []byte {
	t.Helper()
	dir := t.TempDir()
	img, vk, kf := filepath.Join(dir, "phi.img"), filepath.Join(dir, "vk"), filepath.Join(dir, "kf")
	write(t, img, make([]byte, phiMiB<<20))
	write(t, vk, k.volume)
	write(t, kf, k.file)
	run(t, nil, "cryptsetup", "luksFormat", "--batch-mode", "--type", "luks1", "--cipher", "aes-xts-plain64", "--key-size", "512",
		"--pbkdf-force-iterations", "1000", "--volume-key-file", vk, "--uuid", k.uuid, "--key-file", kf, img)
	data, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	encryptMarker(t, k, data, int(binary.BigEndian.Uint32(data[104:]))*512)
	return data
}

func encryptMarker(t *testing.T, k keys, data []byte, offset int) {
	t.Helper()
	c, err := xts.NewCipher(aes.NewCipher, k.volume)
	if err != nil {
		t.Fatal(err)
	}
	sector := make([]byte, 512)
	copy(sector, marker)
	c.Encrypt(data[offset:offset+512], sector, 0)
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// rootFS makes a root file system with the witness as its init, and more files.
func rootFS(t *testing.T, files map[string][]byte) []byte {
	t.Helper()
	dir := t.TempDir()
	tree := filepath.Join(dir, "tree")
	for _, d := range []string{"proc", "sys", "dev", "run", "sbin", "etc/ward", "var", "home", "root"} {
		if err := os.MkdirAll(filepath.Join(tree, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	bin, err := os.ReadFile(assets.witness)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(tree, "sbin/init"), bin, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, data := range files {
		write(t, filepath.Join(tree, name), data)
	}
	img := filepath.Join(dir, "root.img")
	// dm-verity has sectors of 4 KiB, and a file system needs blocks at least as large.
	run(t, nil, "mke2fs", "-q", "-t", "ext4", "-b", "4096", "-d", tree, img, fmt.Sprintf("%dM", rootMiB))
	data, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// part is one partition of a disk.
type part struct {
	name, kind, uuid string
	data             []byte
}

func rootPart(data []byte) part {
	return part{"root", handoff.RootType, rootPartUUID, data}
}

func phiPart(data []byte) part {
	return part{"phi-data", handoff.PHIType, phiPartUUID, data}
}

// disk writes a GPT disk with sgdisk and returns its path.
func disk(t *testing.T, parts ...part) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.img")
	total := int64(2 << 20)
	for _, p := range parts {
		total += int64(len(p.data))
	}
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(total); err != nil {
		t.Fatal(err)
	}
	args := []string{"--clear"}
	at := int64(1 << 20)
	for i, p := range parts {
		if _, err := f.WriteAt(p.data, at); err != nil {
			t.Fatal(err)
		}
		n := i + 1
		args = append(args,
			fmt.Sprintf("--new=%d:%d:%d", n, at/512, (at+int64(len(p.data)))/512-1),
			fmt.Sprintf("--typecode=%d:%s", n, p.kind), fmt.Sprintf("--change-name=%d:%s", n, p.name),
			fmt.Sprintf("--partition-guid=%d:%s", n, p.uuid))
		at += int64(len(p.data))
	}
	run(t, nil, "sgdisk", append(args, path)...)
	return path
}

// keyDevice makes a key device: a whole disk with one file system.
func keyDevice(t *testing.T, fstype string, files map[string][]byte) string {
	t.Helper()
	dir := t.TempDir()
	tree, img := filepath.Join(dir, "tree"), filepath.Join(dir, "key.img")
	if err := os.Mkdir(tree, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(tree, name), data, 0o400); err != nil {
			t.Fatal(err)
		}
	}
	if fstype == "vfat" {
		write(t, img, make([]byte, 2<<20))
		run(t, nil, "mkfs.fat", "-n", handoff.KeyLabel, img)
		for name := range files {
			run(t, nil, "mcopy", "-i", img, filepath.Join(tree, name), "::"+name)
		}
		return img
	}
	run(t, nil, "mke2fs", "-q", "-t", fstype, "-L", handoff.KeyLabel, "-d", tree, img, "1M")
	return img
}
