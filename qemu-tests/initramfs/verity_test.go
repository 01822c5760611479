package initramfs_test

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	disks "ward/builder/disk"
	"ward/initramfs/handoff"
)

const statePartUUID = "e0a1d7c4-5a1b-4d0e-9c55-1f2b7d3e4a03"

// verified makes a root with its hash tree behind it.
func verified(t *testing.T) ([]byte, handoff.Verity) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "root")
	write(t, file, rootFS(t, nil))
	v, err := disks.AppendVerity(t.Context(), slog.New(slog.DiscardHandler), file, rootMiB<<20, strings.Repeat("ab", 32))
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return append(data, make([]byte, -len(data)&(1<<20-1))...), v // partitions are whole MiB
}

func statePart(t *testing.T) part {
	t.Helper()
	img := filepath.Join(t.TempDir(), "state")
	run(t, nil, "mke2fs", "-q", "-t", "ext4", "-L", "ward-state", img, "16M")
	data, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	return part{handoff.StateLabel, handoff.StateType, statePartUUID, data}
}

// TestVerityRoot: a verified root is mapped, and what may change is mounted over it;
// whatever is not as the kernel line says ends the boot with the reason.
func TestVerityRoot(t *testing.T) {
	root, v := verified(t)
	c := config()
	c.Verity = true
	img := buildInitramfs(t, c)
	word := handoff.VerityWord + "=" + v.String()
	phi := phiPart(make([]byte, phiMiB<<20))

	t.Run("Boots", func(t *testing.T) {
		s, _ := boot(t, machine{initramfs: img, disk: disk(t, rootPart(root), statePart(t), phi), append: word})
		if s == nil {
			t.Fatal("root was not reached")
		}
		for _, want := range []string{
			`(?m)^/dev/mapper/root / ext4 ro,`, `(?m)^/dev/vd\w+ /run/ward/state ext4 rw,nosuid,nodev,`,
			`(?m)^ward-etc /etc overlay rw,nodev,`, `(?m)^ward-var /var overlay rw,`, `(?m)^ward-home /home overlay rw,`, `(?m)^ward-root /root overlay rw,`,
		} {
			if !regexp.MustCompile(want).MatchString(s.Mounts) {
				t.Errorf("no mount %q in\n%s", want, s.Mounts)
			}
		}
		m := s.Mapped[handoff.VerityName]
		if !strings.HasPrefix(m.UUID, "CRYPT-VERITY-"+v.Digest[:32]) || !strings.HasPrefix(m.Link, "../dm-") || m.Err != "" {
			t.Errorf("root is mapped as %+v", m)
		}
		if len(s.Report.Volumes) != 1 || s.Report.Volumes[0].State != handoff.StateBlank {
			t.Errorf("init reports %+v, want a blank volume", s.Report.Volumes)
		}
	})

	superblock := bytes.Clone(root)
	superblock[1024+100] ^= 1
	tree := bytes.Clone(root)
	for i := range 64 {
		tree[rootMiB<<20+i] ^= 0xff
	}
	other := v
	other.Digest = strings.Repeat("01", 32)
	changed := `root: mount /dev/mapper/root as ext4: .*: the root partition is not what this kernel image was made with, or is damaged`
	for _, tt := range []struct {
		name, line, want string
		parts            []part
	}{
		{"ChangedSuperblock", word, changed, []part{rootPart(superblock), statePart(t), phi}},
		{"ChangedTree", word, changed, []part{rootPart(tree), statePart(t), phi}},
		{"AnotherDigest", handoff.VerityWord + "=" + other.String(), changed, []part{rootPart(root), statePart(t), phi}},
		{"NoWord", "", `root: the kernel line has no ward\.verity=, and this image has a verified root`, []part{rootPart(root), statePart(t), phi}},
		{"BadWord", handoff.VerityWord + "=1:2:3", `root: ward\.verity: salt and digest are 64 lower-case hex digits each`, []part{rootPart(root), statePart(t), phi}},
		{"CutOff", word, `root: /dev/vd\w+ has \d+ bytes, data and hash tree have \d+: it is not the root of this kernel image`, []part{rootPart(root[:rootMiB<<20]), statePart(t), phi}},
		{"NoState", word + " ward.timeout=5", `root: no partition "state" appeared in 5s, and a verified root needs it`, []part{rootPart(root), phi}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, console := boot(t, machine{initramfs: img, disk: disk(t, tt.parts...), append: tt.line})
			if s != nil {
				t.Error("root was reached")
			}
			if !regexp.MustCompile(tt.want).MatchString(console) {
				t.Errorf("the console does not say %q", tt.want)
			}
		})
	}
}
