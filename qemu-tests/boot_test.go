package qemutests

import (
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"ward/builder/proof"
	"ward/builder/vm"
	machinefile "ward/profiles/machine"
)

// bootBench is one machine that is started in every way.
type bootBench struct {
	c      vm.Config
	f      *proof.Fixture
	m      *vm.VM
	root   *vm.RootShell
	bootID string
}

// up starts the machine, or waits for it to start again, and every safeguard holds.
func (b *bootBench) up(t *testing.T) {
	t.Helper()
	if b.m == nil {
		b.m = start(t, b.c)
	}
	r := verdict(t, b.m, b.bootID)
	allPass(t, r)
	b.bootID = r.BootID
	b.root = rootShell(t, b.m, b.f)
}

func (b *bootBench) down(t *testing.T) {
	t.Helper()
	powerDown(t, b.m)
	b.m.Close()
	b.m = nil
}

func (b *bootBench) reboot(t *testing.T) {
	t.Helper()
	if err := proof.Reboot(within(t, b.m, 2*time.Minute), b.m, b.f); err != nil {
		t.Fatal(err)
	}
}

// sizes are partitions and file systems in MiB.
func (b *bootBench) sizes(t *testing.T) map[string]int {
	t.Helper()
	out := run(t, b.m, b.root, `set -e
for p in root phi-data; do echo "part-$p $(($(lsblk -bdno SIZE $(blkid -t PARTLABEL=$p -o device)) >> 20))"; done
echo "fs-root $(df -BM --output=size / | tail -1 | tr -dc 0-9)"
echo "fs-phi-data $(df -BM --output=size /var/data/phi | tail -1 | tr -dc 0-9)"`)
	got := map[string]int{}
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) == 2 {
			got[f[0]], _ = strconv.Atoi(f[1])
		}
	}
	return got
}

// grew expects partitions of these sizes, and file systems that fill them but for
// what ext4 and LUKS2 need themselves.
func (b *bootBench) grew(t *testing.T, root, phi int) {
	t.Helper()
	got := b.sizes(t)
	for name, want := range map[string]int{"root": root, "phi-data": phi} {
		if got["part-"+name] != want {
			t.Errorf("partition %s has %d MiB, want %d", name, got["part-"+name], want)
		}
		if fs := got["fs-"+name]; fs > want || fs < want*9/10 {
			t.Errorf("the file system of %s has %d MiB on a partition of %d", name, fs, want)
		}
	}
}

// ukis lists what systemd-boot can start.
func (b *bootBench) ukis(t *testing.T) string {
	t.Helper()
	return run(t, b.m, b.root, "set -e; mount /efi; ls /efi/EFI/Linux; umount /efi")
}

// update makes the running kernel's image anew, with a kernel line that is edited
// for it alone: the file itself stays as it is, or the integrity control turned red.
func (b *bootBench) update(t *testing.T, edit string) string {
	t.Helper()
	return run(t, b.m, b.root, `set -e
sed -E '`+edit+`' /usr/lib/ward/cmdline > /run/line
mount --bind /run/line /usr/lib/ward/cmdline
trap 'umount /usr/lib/ward/cmdline' EXIT
wardctl initramfs $(uname -r) 2>&1; sync`)
}

var (
	countedUKI = regexp.MustCompile(`(?m)^ward-\d\S*\+3\.efi$`)
	anyCounted = regexp.MustCompile(`(?m)^ward-\d\S*\+\d(-\d)?\.efi$`)
	provedUKI  = regexp.MustCompile(`(?m)^ward-\d[^~\n]*[^0-9~\n]\d*\.efi$`)
	formerUKI  = regexp.MustCompile(`(?m)^ward-\d\S*~old\.efi$`)
)

// TestBootChain starts one disk with a static address under UEFI and under a BIOS,
// gives it more space twice, updates its kernel image, and every safeguard holds each time.
func TestBootChain(t *testing.T) {
	t.Parallel()
	b := &bootBench{f: fixture(t)}
	// The address that QEMU's own DHCP server would give, for its forwards to reach.
	b.f.Config.Network = &machinefile.Network{Address: "10.0.2.15/24", Gateway: "10.0.2.2", DNS: []string{"10.0.2.3"}}
	if err := b.f.Write(); err != nil {
		t.Fatal(err)
	}
	b.c = b.f.VM(image(t))
	b.c.State, b.c.DiskSize = t.TempDir(), 4<<30

	t.Log("first boot, UEFI, on a disk that is larger than the image")
	b.up(t)
	// 1278 MiB more than the image's 2818; a quarter of them for root.
	b.grew(t, 2048+319, 512+959)
	// An address of DHCP is "dynamic": ip-address(8).
	if out := run(t, b.m, b.root, "ip -4 -o address show scope global; ip route show default; resolvectl dns"); !strings.Contains(out, "10.0.2.15/24") ||
		strings.Contains(out, "dynamic") || !strings.Contains(out, "proto static") || !strings.Contains(out, "10.0.2.3") {
		t.Errorf("the machine does not have the static address of its file:\n%s", out)
	}
	run(t, b.m, b.root, "echo 'PHI of patient 4711' > "+phiFile+"; sync")
	before := b.ukis(t)
	if !provedUKI.MatchString(before) || anyCounted.MatchString(before) {
		t.Errorf("the image's kernel has nothing to fall back to and must not be counted:\n%s", before)
	}
	// An update makes the same kernel's image anew. One byte more in the kernel line
	// makes it another one.
	t.Log(b.update(t, "s/$/ ward.updated/"))
	if list := b.ukis(t); !countedUKI.MatchString(list) || !formerUKI.MatchString(list) {
		t.Fatalf("want a counted image and the former one:\n%s", list)
	}
	b.down(t)

	t.Log("BIOS, on a disk that is larger still")
	if out, err := exec.Command("qemu-img", "resize", b.c.State+"/disk.qcow2", "5G").CombinedOutput(); err != nil {
		t.Fatalf("qemu-img: %v: %s", err, out)
	}
	b.c.Firmware = "bios"
	b.up(t)
	out := run(t, b.m, b.root, "test -e /sys/firmware/efi && echo uefi || echo bios; cat /proc/cmdline")
	if !strings.HasPrefix(out, "bios\n") || !strings.Contains(out, "ward.updated") {
		t.Errorf("want a BIOS that starts the updated kernel, the machine says:\n%s", out)
	}
	b.grew(t, 2048+319, 512+959+1024)
	if out := run(t, b.m, b.root, "cat "+phiFile); !strings.Contains(out, "4711") {
		t.Errorf("PHI was %q after the volume grew", out)
	}
	b.down(t)

	t.Log("UEFI: the updated image is counted until it has finished its boot")
	b.c.Firmware = "uefi"
	b.up(t)
	out = run(t, b.m, b.root, `cat /proc/cmdline; cat /sys/firmware/efi/efivars/LoaderBootCountPath-* | tr -d '\0'; echo
for i in $(seq 60); do systemctl is-active --quiet ward-kernel-good && break; sleep 1; done
systemctl show -P Result -P ExecMainStatus ward-kernel-good; journalctl -b --no-pager -o cat -u ward-kernel-good`)
	if !strings.Contains(out, "ward.updated") || !strings.Contains(out, "+2-1.efi") {
		t.Errorf("this boot was not the first of three of the updated image:\n%s", out)
	}
	if list := b.ukis(t); anyCounted.MatchString(list) || !provedUKI.MatchString(list) {
		t.Errorf("the image that proved itself is counted still:\n%s\n%s", list, out)
	}

	b.down(t)
}

// TestBootFallback: an update that cannot boot is tried three times, without anybody's
// help, and gives way to the image before it.
func TestBootFallback(t *testing.T) {
	t.Parallel()
	b := &bootBench{f: fixture(t)}
	b.c = b.f.VM(image(t))
	b.up(t)
	b.update(t, "s/root=PARTUUID=[0-9a-f-]+/root=PARTUUID=00000000-0000-4000-8000-000000000000 ward.timeout=5/")
	b.reboot(t)
	for range 3 {
		expect(t, b.m, 3*time.Minute, `ward-init: the machine starts again: this kernel is on trial: root: no device`)
	}
	b.up(t)
	if tries := strings.Count(b.m.ConsoleText(), "ward-init: the machine starts again:"); tries != 3 {
		t.Errorf("the broken image was tried %d times, want 3", tries)
	}
	b.update(t, "s/$/ ward.again/")
	if list := b.ukis(t); !countedUKI.MatchString(list) || strings.Contains(list, "+0-3") {
		t.Errorf("the broken image was not replaced:\n%s", list)
	}
	b.down(t)
}
