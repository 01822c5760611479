package qemutests

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"ward/builder/proof"
	"ward/builder/vm"
	"ward/initramfs/handoff"
	"ward/profiles/control"
	"ward/profiles/evidence"
)

// otherKernels name, for an image, the suite and a package of its archive that
// depends on the newest kernel of another series. A higher version than the
// image's own is what a machine meets in its life: the boot loader must prefer
// it by itself.
var otherKernels = map[string]struct{ suite, pkg string }{
	"debian-12": {"bookworm", "linux-image-6.12-cloud-amd64"},
}

// TestKernelUpdate installs another kernel with the package manager of a running
// machine. A hook that cannot make it bootable fails the installation and leaves
// what boots alone; one that can leads to a machine that starts the new kernel
// and opens PHI, and that can go back.
func TestKernelUpdate(t *testing.T) {
	t.Parallel()
	i := image(t)
	deb := otherKernel(t, i.Manifest.Image)
	_, version, ok := strings.Cut(strings.SplitN(filepath.Base(deb), "_", 2)[0], "linux-image-")
	if !ok {
		t.Fatalf("%s is not the package of a kernel", deb)
	}
	const label = "OTHERKERNEL"
	media := filepath.Join(t.TempDir(), "media.img")
	tool(t, "mke2fs", "-q", "-t", "ext4", "-L", label, "-d", filepath.Dir(deb), media, "96M")
	m, f, before := reboot(t, func(c *vm.Config) {
		c.Disks = append(c.Disks, vm.Disk{File: media, Format: "raw", ReadOnly: true})
	})
	root := rootShell(t, m, f)
	old := strings.TrimSpace(run(t, m, root, "uname -r"))
	if old == version {
		t.Fatalf("the machine runs kernel %s already", version)
	}
	run(t, m, root, "mkdir -p /run/media && mount -o ro /dev/disk/by-label/"+label+" /run/media && mount /efi")
	install := "DEBIAN_FRONTEND=noninteractive apt-get install --yes /run/media/" + filepath.Base(deb)
	const sums = "cd /efi/EFI/Linux && sha256sum *"
	was := run(t, m, root, sums)
	if strings.Count(was, "ward-"+old+".efi") != 1 || strings.Contains(was, version) {
		t.Fatalf("before the installation the ESP holds\n%s", was)
	}

	// The hook cannot do its work: what it packs is not there.
	run(t, m, root, "mv /usr/lib/ward/init /usr/lib/ward/init.away")
	out, code, err := root.Run(within(t, m, 3*time.Minute), install)
	if err != nil {
		t.Fatal(err)
	}
	if want := "kernel " + version + ": openat usr/lib/ward/init: no such file"; code == 0 || !strings.Contains(out, want) || !strings.Contains(out, "zz-ward") {
		t.Errorf("the installation ended with exit code %d, want that it fails with %q of the hook zz-ward:\n%s", code, want, out)
	}
	if now := run(t, m, root, sums); now != was {
		t.Errorf("the ESP holds\n%safter an installation that failed, want what it held before:\n%s", now, was)
	}
	run(t, m, root, "mv /usr/lib/ward/init.away /usr/lib/ward/init")

	// And now it can: the package manager finishes what it has begun.
	began := time.Now()
	out, code, err = root.Run(within(t, m, 3*time.Minute), "DEBIAN_FRONTEND=noninteractive apt-get --fix-broken install --yes")
	if err != nil || code != 0 {
		t.Fatalf("the installation: exit code %d, %v: %s", code, err, out)
	}
	t.Logf("the hook took %s:\n%s", time.Since(began).Round(time.Second), out)
	now := run(t, m, root, sums)
	if !strings.Contains(now, was) || strings.Count(now, "ward-"+version+"+3.efi") != 1 { // counted until it has finished a boot
		t.Errorf("the ESP holds\n%swant a new kernel beside the old one\n%s", now, was)
	}
	run(t, m, root, "umount /run/media /efi")

	boots := func(t *testing.T, before *evidence.Report, want string) *evidence.Report {
		t.Helper()
		if err := proof.Reboot(t.Context(), m, f); err != nil {
			t.Fatal(err)
		}
		r := verdict(t, m, before.BootID)
		root = rootShell(t, m, f)
		if got := strings.TrimSpace(run(t, m, root, "uname -r")); got != want {
			t.Errorf("the machine runs kernel %s, want %s", got, want)
		}
		if r.Init == nil || len(r.Init.Volumes) != 1 || r.Init.Volumes[0].State != handoff.StateOpened {
			t.Errorf("init reports %+v, want that it opened the volume", r.Init)
		}
		if out := run(t, m, root, "findmnt --noheadings --output SOURCE,TARGET /dev/mapper/phi-data"); !strings.Contains(out, "/dev/mapper/phi-data") {
			t.Errorf("PHI is mounted as %q", out)
		}
		phi := findings(r, "phi")
		if len(phi) == 0 {
			t.Error("the report has no findings about PHI")
		}
		for _, x := range phi {
			if x.Status != control.Pass {
				t.Error(proof.Line(x))
			}
		}
		return r
	}
	after := boots(t, before, version)
	for _, x := range after.Findings {
		if x.Status != control.Pass {
			t.Logf("under the new kernel: %s", proof.Line(x))
		}
	}
	// Back to the old one, once, as an administrator would in the loader's menu:
	// systemd-boot's variable LoaderEntryOneShot, UTF-16 after four bytes of
	// attributes (https://systemd.io/BOOT_LOADER_INTERFACE).
	run(t, m, root, `mountpoint -q /sys/firmware/efi/efivars || mount -t efivarfs efivarfs /sys/firmware/efi/efivars
printf '`+oneShot("ward-"+old+".efi")+`' >/sys/firmware/efi/efivars/LoaderEntryOneShot-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f`)
	boots(t, after, old)
}

// oneShot is the content of LoaderEntryOneShot as an argument of printf(1).
func oneShot(entry string) string {
	var b strings.Builder
	b.WriteString(`\007\000\000\000`)
	for _, c := range []byte(entry + "\x00") {
		fmt.Fprintf(&b, `\%03o\000`, c)
	}
	return b.String()
}

// otherKernel fetches the package of another kernel as a build fetches its
// packages: by mmdebstrap, which checks the archive's signature.
func otherKernel(t *testing.T, image string) string {
	t.Helper()
	other, ok := otherKernels[image]
	if !ok {
		t.Fatalf("no other kernel is known for %s", image)
	}
	tree := filepath.Join(t.TempDir(), "tree")
	// Unpacked, not installed; the packages themselves stay where apt put them.
	tool(t, program(t, "mmdebstrap"), "--quiet", "--mode=unshare", "--variant=extract", "--architectures=amd64", "--format=directory",
		"--include="+other.pkg, "--skip=download/empty,essential/unlink,cleanup/apt", other.suite, tree)
	found, err := filepath.Glob(filepath.Join(tree, "var/cache/apt/archives", "linux-image-*-cloud-amd64_*.deb"))
	if err != nil {
		t.Fatal(err)
	}
	found = slices.DeleteFunc(found, func(f string) bool { return strings.HasPrefix(filepath.Base(f), other.pkg+"_") })
	if len(found) != 1 {
		t.Fatalf("packages of kernels %v, want one", found)
	}
	return found[0]
}

// tool runs a program of the host that must succeed.
func tool(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", name, err, out)
	}
}
