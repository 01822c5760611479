package firstboot

import (
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ward/images/distro"
	"ward/initramfs/handoff"
	"ward/profiles"
)

func openRoot(t *testing.T) (*os.Root, string) {
	t.Helper()
	dir := t.TempDir()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	return root, dir
}

// tree lists every file below dir with its mode and, for a link, its target.
func tree(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		st, err := d.Info()
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, p)
		b.WriteString(st.Mode().String() + " " + rel)
		if to, err := os.Readlink(p); err == nil {
			b.WriteString(" -> " + to)
		}
		b.WriteString("\n")
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

const installed = `-rwxr-xr-x etc/kernel/postinst.d/zz-ward
-rwxr-xr-x etc/kernel/postrm.d/zz-ward
-rwxr-xr-x etc/kernel/preinst.d/zz-ward
Lrwxrwxrwx etc/systemd/system/multi-user.target.wants/ward-apply.service -> /usr/lib/systemd/system/ward-apply.service
Lrwxrwxrwx etc/systemd/system/multi-user.target.wants/ward-kernel-good.service -> /usr/lib/systemd/system/ward-kernel-good.service
Lrwxrwxrwx etc/systemd/system/multi-user.target.wants/ward-reencrypt.service -> /usr/lib/systemd/system/ward-reencrypt.service
Lrwxrwxrwx etc/systemd/system/multi-user.target.wants/ward-verify.service -> /usr/lib/systemd/system/ward-verify.service
Lrwxrwxrwx etc/systemd/system/timers.target.wants/ward-risk.timer -> /usr/lib/systemd/system/ward-risk.timer
Lrwxrwxrwx etc/systemd/system/timers.target.wants/ward-verify.timer -> /usr/lib/systemd/system/ward-verify.timer
-rw-r--r-- usr/lib/systemd/system/ssh.service.d/10-ward.conf
-rw-r--r-- usr/lib/systemd/system/ward-apply.service
-rw-r--r-- usr/lib/systemd/system/ward-failed.service
-rw-r--r-- usr/lib/systemd/system/ward-kernel-good.service
-rw-r--r-- usr/lib/systemd/system/ward-reencrypt.service
-rw-r--r-- usr/lib/systemd/system/ward-risk.service
-rw-r--r-- usr/lib/systemd/system/ward-risk.timer
-rw-r--r-- usr/lib/systemd/system/ward-verify.service
-rw-r--r-- usr/lib/systemd/system/ward-verify.timer
-rw-r--r-- usr/lib/ward/image.json
-rw------- usr/lib/ward/init.json
-rw-r--r-- usr/lib/ward/profile.json
-rwxr-xr-x usr/sbin/wardctl
`

func TestInstall(t *testing.T) {
	root, dir := openRoot(t)
	profile := &profiles.Profile{Name: "hipaa"}
	image := ImageFacts{Name: "debian-12", Distro: "debian", Release: "12", Digest: "d1", Tool: "test",
		Init: handoff.Config{Version: handoff.Version, Sources: []handoff.Source{{Type: "device", Label: handoff.KeyLabel}}}}
	for range 2 { // twice is the same
		if err := Install(root, []byte("program"), profile, image); err != nil {
			t.Fatal(err)
		}
		if got := tree(t, dir); got != installed {
			t.Errorf("Install() left\n%s\nwant\n%s", got, installed)
		}
	}
	f, err := readFacts(root)
	if err != nil {
		t.Fatal(err)
	}
	got, _ := json.Marshal(f.Image.Init)
	want, _ := json.Marshal(image.Init)
	if string(got) != string(want) || f.Image.Digest != "d1" || f.Profile.Name != "hipaa" || f.Release.Name() != "debian-12" {
		t.Errorf("readFacts() = %+v, want what Install wrote", f)
	}
}

// TestInstallVolumes: with further volumes the reencryption ends before any of them
// is unmounted.
func TestInstallVolumes(t *testing.T) {
	root, dir := openRoot(t)
	p := &profiles.Profile{Name: "volumes"}
	p.Controls.PHI.Volumes = []profiles.Volume{{Name: "old-scans", Mount: "/srv/old-scans"}}
	image := ImageFacts{Name: "debian-12", Distro: "debian", Release: "12",
		Init: handoff.Config{Version: handoff.Version, Volumes: p.Controls.PHI.Handoff()}}
	if err := Install(root, []byte("program"), p, image); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(dir, "usr/lib/systemd/system/ward-reencrypt.service.d/10-volumes.conf"))
	const want = `After=var-data-phi.mount systemd-cryptsetup@phi\x2ddata.service srv-old\x2dscans.mount systemd-cryptsetup@old\x2dscans.service`
	if err != nil || !strings.Contains(string(b), "[Unit]\n"+want+"\n") {
		t.Errorf("the drop-in is %q, %v, want %s", b, err, want)
	}
}

func TestInstallUnknownRelease(t *testing.T) {
	root, dir := openRoot(t)
	err := Install(root, nil, &profiles.Profile{}, ImageFacts{Distro: "debian", Release: "3"})
	if err == nil || !strings.Contains(err.Error(), "debian 3 is not known") {
		t.Errorf("Install() = %v, want an error that names the release", err)
	}
	if got := tree(t, dir); got != "" {
		t.Errorf("Install() refused the release but wrote\n%s", got)
	}
}

func TestSSHServiceOfEveryRelease(t *testing.T) {
	if len(distro.All) == 0 {
		t.Error("looked at nothing")
	}
	for _, r := range distro.All {
		if got := r.SSHService(); !strings.HasSuffix(got, ".service") {
			t.Errorf("SSHService() of %s = %q, want a service", r.Name(), got)
		}
	}
	if got := (distro.Release{SSHUnit: "ssh.socket"}).SSHService(); got != "ssh.service" {
		t.Errorf("SSHService() of ssh.socket = %q, want ssh.service", got)
	}
}
