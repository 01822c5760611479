package initramfs_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"ward/initramfs"
	"ward/initramfs/handoff"

	// init is built by a command that the cache of test results does not see.
	_ "ward/initramfs/boot"
	_ "ward/initramfs/boot/keysource/network"
	_ "ward/initramfs/boot/keysource/tpmkey"
)

// assets are made once for all tests: kernel, modules, the two binaries.
var assets struct {
	dir     string
	kernel  string
	version string
	modules string // folder lib/modules/VERSION
	init    []byte // with local key sources
	netInit []byte // with all key sources
	witness string
}

func TestMain(m *testing.M) {
	code, err := 1, error(nil)
	if err = prepare(); err == nil {
		code = m.Run()
	} else {
		fmt.Fprintln(os.Stderr, "qemu-tests/initramfs:", err)
	}
	os.RemoveAll(assets.dir)
	os.Exit(code)
}

func prepare() error {
	image := os.Getenv("WARD_IMAGE_DIR")
	if image == "" {
		image = "../../out/debian-12"
	}
	var err error
	if assets.dir, err = os.MkdirTemp("", "ward-initramfs-"); err != nil {
		return err
	}
	assets.kernel = filepath.Join(image, "vmlinuz")
	if _, err := os.Stat(assets.kernel); err != nil {
		return fmt.Errorf("%w\nhint: make an image first, or set WARD_IMAGE_DIR to a folder with vmlinuz and modules/VERSION", err)
	}
	if err := findModules(image); err != nil {
		return err
	}
	for _, i := range []struct {
		tags string
		to   *[]byte
	}{{"", &assets.init}, {"netkeys", &assets.netInit}} {
		path := filepath.Join(assets.dir, "init")
		if err := goBuild(path, "ward/initramfs/cmd/init", i.tags); err != nil {
			return err
		}
		if *i.to, err = os.ReadFile(path); err != nil {
			return err
		}
	}
	assets.witness = filepath.Join(assets.dir, "witness")
	return goBuild(assets.witness, "ward/qemu-tests/initramfs/witness", "")
}

// findModules takes the only folder VERSION below modules/, or takes it out of
// the image's root file system.
func findModules(image string) error {
	dir := filepath.Join(image, "modules")
	if !exists(dir) {
		dir = filepath.Join(assets.dir, "modules")
		if err := extractModules(filepath.Join(image, "disk.qcow2"), dir); err != nil {
			return err
		}
	}
	var found []string
	// The walk does not follow a link at its start without the slash.
	err := filepath.WalkDir(dir+"/", func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.Name() == "modules.dep" {
			found = append(found, filepath.Dir(p))
		}
		return err
	})
	if err != nil {
		return err
	}
	if len(found) != 1 {
		return fmt.Errorf("%s: %d kernels' modules, want 1", dir, len(found))
	}
	assets.modules, assets.version = found[0], filepath.Base(found[0])
	return nil
}

// extractModules copies usr/lib/modules out of the partition "root" of a disk
// image, with the tools of the file system: nothing is mounted.
func extractModules(disk, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	raw := filepath.Join(assets.dir, "disk.raw")
	defer os.Remove(raw)
	if out, err := exec.Command("qemu-img", "convert", "-O", "raw", disk, raw).CombinedOutput(); err != nil {
		return fmt.Errorf("qemu-img: %w: %s", err, out)
	}
	table, err := exec.Command("sfdisk", "--json", raw).Output()
	if err != nil {
		return fmt.Errorf("sfdisk: %w", err)
	}
	var t struct {
		PartitionTable struct {
			Partitions []struct {
				Name  string
				Start int64
			}
		}
	}
	if err := json.Unmarshal(table, &t); err != nil {
		return fmt.Errorf("sfdisk: %w", err)
	}
	for _, p := range t.PartitionTable.Partitions {
		if p.Name != "root" {
			continue
		}
		cmd := exec.Command("debugfs", "-R", "rdump /usr/lib/modules "+dir, fmt.Sprintf("%s?offset=%d", raw, p.Start*512))
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("debugfs: %w: %s", err, out)
		}
		return nil
	}
	return fmt.Errorf("%s: no partition is named root", disk)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

func goBuild(out, pkg, tags string) error {
	cmd := exec.Command("go", "build", "-trimpath", "-tags", tags, "-ldflags", "-s -w -buildid=", "-o", out, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build %s: %w\n%s", pkg, err, text)
	}
	return nil
}

// buildInitramfs writes an initramfs for config and returns its path.
func buildInitramfs(t *testing.T, config handoff.Config, modules ...string) string {
	t.Helper()
	return packInitramfs(t, config, nil, modules...)
}

// packInitramfs is buildInitramfs with keys to embed.
func packInitramfs(t *testing.T, config handoff.Config, keys map[string][]byte, modules ...string) string {
	t.Helper()
	init := assets.init
	if network, tpm := config.Needs(); network || tpm {
		init = assets.netInit
	}
	var b bytes.Buffer
	res, err := initramfs.Build(&b, initramfs.Spec{
		Init: init, KernelVersion: assets.version, ModulesFS: os.DirFS(assets.modules),
		Modules: modules, Config: config, Keys: keys,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("initramfs: %d bytes, modules %v", b.Len(), res.Modules)
	path := filepath.Join(t.TempDir(), "initramfs.img")
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
