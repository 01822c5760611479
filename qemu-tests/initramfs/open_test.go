// Package initramfs_test boots ward-init under QEMU with a real kernel, disks
// made by the usual tools, and a witness as the real init.
package initramfs_test

import (
	"strings"
	"testing"

	"ward/initramfs/handoff"
)

func TestOpens(t *testing.T) {
	k := newKeys(t)
	img := buildInitramfs(t, config())
	root, phi := rootFS(t, nil), luks(t, k)
	for _, c := range []struct{ name, bus, fs string }{
		{"virtio-blk with key on ext4", "", "ext4"},
		{"nvme with key on ext2", "nvme", "ext2"},
		{"virtio-scsi with key on vfat", "scsi", "vfat"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, console := boot(t, machine{
				initramfs: img, bus: c.bus,
				disk: disk(t, rootPart(root), phiPart(phi)),
				key:  keyDevice(t, c.fs, map[string][]byte{"phi-data.key": k.file}),
			})
			v := expect(t, s, console, handoff.StateOpened, "")
			if v.KeySource != "device" || v.LUKSUUID != k.uuid || v.PartUUID != phiPartUUID {
				t.Errorf("report is %+v, want source device, LUKS UUID %s, PARTUUID %s", v, k.uuid, phiPartUUID)
			}
			if strings.Contains(s.Mounts, "WARD") || strings.Count(s.Mounts, "ext4") != 1 || strings.Contains(s.Mounts, "vfat") {
				t.Errorf("a key device is still mounted:\n%s", s.Mounts)
			}
		})
	}
}

// TestManyVolumes opens two volumes with a key each.
func TestManyVolumes(t *testing.T) {
	a, b := newKeys(t), newKeys(t)
	c := config()
	c.Volumes = append(c.Volumes, handoff.Volume{Name: "phi-images", PartLabel: "phi-images", KeyFile: "phi-images.key", Mount: "/var/data/images"})
	second := part{"phi-images", handoff.PHIType, "11111111-52a1-4a6f-9f0e-8d5b7a3c6e03", luks(t, b)}
	s, console := boot(t, machine{
		initramfs: buildInitramfs(t, c),
		disk:      disk(t, rootPart(rootFS(t, nil)), phiPart(luks(t, a)), second),
		key:       keyDevice(t, "ext4", map[string][]byte{"phi-data.key": a.file, "phi-images.key": b.file}),
	})
	expect(t, s, console, handoff.StateOpened, "")
	checkMapped(t, s, "phi-images")
	if len(s.Report.Volumes) != 2 || s.Report.Volumes[1].State != handoff.StateOpened {
		t.Errorf("report is %+v, want two open volumes", s.Report.Volumes)
	}
}

// TestOpensLUKS1 opens the older format.
func TestOpensLUKS1(t *testing.T) {
	k := newKeys(t)
	s, console := boot(t, machine{
		initramfs: buildInitramfs(t, config()),
		disk:      disk(t, rootPart(rootFS(t, nil)), phiPart(luks1(t, k))),
		key:       keyDevice(t, "ext4", map[string][]byte{"phi-data.key": k.file}),
	})
	expect(t, s, console, handoff.StateOpened, "")
}

// TestSwitchRoot looks at what the real init starts with.
func TestSwitchRoot(t *testing.T) {
	k := newKeys(t)
	s, _ := boot(t, machine{
		initramfs: buildInitramfs(t, config()),
		disk:      disk(t, rootPart(rootFS(t, nil)), phiPart(luks(t, k))),
		key:       keyDevice(t, "ext4", map[string][]byte{"phi-data.key": k.file}),
		append:    "printk.devkmsg=ratelimit -- single",
	})
	if s == nil {
		t.Fatal("root was not reached")
	}
	if got := strings.Join(s.Args, " "); got != "/sbin/init single" {
		t.Errorf("init was started as %q, want /sbin/init single", got)
	}
	for _, fd := range s.FDs {
		if fd != "/dev/console" && !strings.HasPrefix(fd, "/proc/") && !strings.HasPrefix(fd, "anon_inode:") {
			t.Errorf("init has inherited %s", fd)
		}
	}
	if strings.Join(s.Left, " ") != "handoff.json" {
		t.Errorf("/run/ward holds %v, want the report only", s.Left)
	}
	if !strings.Contains(s.Mounts, " / ext4 ro,") {
		t.Errorf("root is not mounted read-only:\n%s", s.Mounts)
	}
	// What systemd expects to find, and keeps: with the flags that it would use.
	for _, want := range []string{"/proc proc rw,nosuid,nodev,noexec", "/sys sysfs rw,nosuid,nodev,noexec", "/dev devtmpfs rw,nosuid", "/run tmpfs rw,nosuid,nodev"} {
		if !strings.Contains(s.Mounts, want) {
			t.Errorf("no mount %q in\n%s", want, s.Mounts)
		}
	}
	if len(s.Report.Timings) == 0 {
		t.Error("the report has no timings")
	}
}
