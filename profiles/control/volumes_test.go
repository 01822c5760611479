package control_test

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"ward/images/distro"
	"ward/profiles"
	"ward/profiles/control"
	"ward/profiles/control/controltest"
)

// further is a second PHI volume whose name and mount systemd has to escape.
var further = profiles.Volume{Name: "old-scans", Mount: "/srv/old-scans"}

func withFurther(p *profiles.Profile) { p.Controls.PHI.Volumes = []profiles.Volume{further} }

// secondVolume turns an answer about phi-data into one about the further volume.
var secondVolume = strings.NewReplacer(
	`systemd-cryptsetup@phi\x2ddata.service`, `systemd-cryptsetup@old\x2dscans.service`,
	"var-data-phi.mount", `srv-old\x2dscans.mount`,
	"phi-data", further.Name, profiles.DataMount, further.Mount, "vda3", "vda4", phiUUID, secondUUID,
	strings.ReplaceAll(phiUUID, "-", ""), strings.ReplaceAll(secondUUID, "-", ""),
)

const secondUUID = "0d3c8a52-11aa-4f0e-8a34-5c1be0a7f3d2"

// TestPHIVolumes: all that is asked of phi-data is asked of a further volume too,
// by names of its own, and what is wrong with one is said of that one alone.
func TestPHIVolumes(t *testing.T) {
	p := hipaa(t)
	p.Controls.PHI.Recipients = []string{"age1officer"}
	withFurther(p)
	good := maps.Clone(phiGood)
	for key, out := range phiGood {
		good[secondVolume.Replace(key)] = controltest.Output{Stdout: secondVolume.Replace(out.Stdout), Exit: out.Exit}
	}
	good["cat /etc/ward/pins.json"] = controltest.Output{Stdout: strings.TrimSuffix(pins, "]}") + "," + secondVolume.Replace(pins[strings.Index(pins, "[{")+1:])}
	const key = "/etc/some.key" // it is tried on both

	gone := func(volume func(string) string) controltest.Outputs {
		return controltest.Outputs{volume(infoName): {Exit: 1}, volume(mountIs): {Exit: 1}, volume(mountThen): {Exit: 1}}
	}
	one := hipaa(t)
	one.Controls.PHI.Recipients = p.Controls.PHI.Recipients
	for _, r := range distro.All {
		t.Run(r.Name(), func(t *testing.T) {
			c := control.PHI(p, r)
			all := map[string]control.Setting{}
			for _, s := range c.Settings {
				if all[s.Name()] != nil {
					t.Errorf("two settings are called %q", s.Name())
				}
				all[s.Name()] = s
			}
			alone := control.PHI(one, r).Settings
			for _, s := range alone {
				if all[s.Name()] == nil || all[further.Name+": "+s.Name()] == nil {
					t.Errorf("%q is not asked of both volumes", s.Name())
				}
			}
			if len(alone) == 0 || len(all) != 2*len(alone) {
				t.Fatalf("two volumes have %d settings, and one has %d", len(all), len(alone))
			}
			for _, broken := range []struct {
				name   string
				change controltest.Outputs
				red    func(setting string) string // what the setting gets; empty: it passes
			}{
				{"both are good", nil, func(string) string { return "" }},
				{"the further volume is absent", gone(secondVolume.Replace), func(s string) string {
					return map[bool]string{true: "old-scans"}[strings.HasPrefix(s, "old-scans: ")]
				}},
				{"phi-data is absent", gone(func(s string) string { return s }), func(s string) string {
					return map[bool]string{true: "phi"}[!strings.HasPrefix(s, "old-scans: ")]
				}},
				{"a file opens the further volume", controltest.Outputs{phiTry + key + " /dev/vda4": {}}, func(s string) string {
					return map[string]string{"old-scans: key not on the machine": key + " opens the volume"}[s]
				}},
				{"another volume is pinned", controltest.Outputs{"cryptsetup luksUUID /dev/vda4": {Stdout: phiUUID + "\n"}}, func(s string) string {
					return map[string]string{"old-scans: pin": "pinned is " + secondUUID}[s]
				}},
				{"its recovery key is gone", controltest.Outputs{secondVolume.Replace(sealed): {Exit: 1}}, func(s string) string {
					return map[string]string{"old-scans: recovery key": "no sealed key"}[s]
				}},
				{"anybody reads it", controltest.Outputs{"runuser -u nobody -- ls /srv/old-scans": {Stdout: "a\n"}}, func(s string) string {
					return map[string]string{"old-scans: strangers": "nobody can list /srv/old-scans"}[s]
				}},
			} {
				m := controltest.Outputs(good).With(broken.change).Machine(r, p, nil)
				for name, s := range all {
					got, err := s.Check(t.Context(), m)
					want := broken.red(name)
					switch {
					case err != nil:
						t.Errorf("%s: %s: Check() = %v", broken.name, name, err)
					case want == "" && got != s.Want():
						t.Errorf("%s: %s: Check() = %q, want %q", broken.name, name, got, s.Want())
					case want != "" && (got == s.Want() || !strings.Contains(got, want)):
						t.Errorf("%s: %s: Check() = %q, want a fault with %q", broken.name, name, got, want)
					}
				}
			}
		})
	}
}

// TestPHIOwnerOfEach: apply gives each mounted volume its owner, and leaves the bare
// mount point of an absent one alone.
func TestPHIOwnerOfEach(t *testing.T) {
	p, r := hipaa(t), distro.All[0]
	withFurther(p)
	tree := t.TempDir()
	s := controltest.Suite{Control: control.PHI(p, r), Release: r, Profile: p, Command: func(_ string, argv []string) (string, error) {
		if strings.Join(argv, " ") == mountThen {
			return "", &controltest.Exit{Argv: argv, Code: 1}
		}
		return "", nil
	}}
	controltest.Apply(t, s, tree, control.Bake)
	for _, dir := range []string{profiles.DataMount, further.Mount} {
		if info, err := os.Stat(filepath.Join(tree, dir)); err != nil || !info.IsDir() {
			t.Errorf("the image has no mount point %s: %v", dir, err)
		}
	}
	got := strings.Join(controltest.Apply(t, s, tree, control.FirstBoot), "\n")
	if want := mountThen + "\nfindmnt --mountpoint /srv/old-scans\nchown phi-service:phi-access /srv/old-scans\nchmod 0750 /srv/old-scans"; got != want {
		t.Errorf("apply ran\n%s\nwant\n%s", got, want)
	}
}

// TestAuditVolumes and TestBackupVolumes have golden files of a machine with a
// further volume.
func TestAuditVolumes(t *testing.T) {
	system(t, control.Audit, withFurther, func(t *testing.T, good controltest.Outputs) []controltest.Break {
		const rules, probe = "auditctl -l", `sh -c eval "$(cat)" probe`
		var search, name string
		for key := range good {
			if strings.Contains(key, "ausearch") {
				search = key
				name = key[strings.LastIndexByte(key, ' ')+1:]
			}
		}
		second := strings.Replace(name, profiles.DataMount, further.Mount, 1)
		again := strings.Replace(search, name, second, 1)
		for _, line := range strings.Split(strings.TrimSpace(good[rules].Stdout), "\n") {
			if strings.Contains(line, "phi_access") {
				good[rules] = controltest.Output{Stdout: good[rules].Stdout + strings.Replace(line, profiles.DataMount, further.Mount, 1) + "\n"}
			}
		}
		good[probe+` <<< f=$(mktemp `+further.Mount+`/.ward-audit-XXXXXXXXXX) && echo "$f" && cat "$f" && rm "$f"`] = controltest.Output{Stdout: second + "\n"}
		good[again] = controltest.Output{Stdout: strings.ReplaceAll(good[search].Stdout, name, second)}
		broken := []controltest.Break{
			{Name: "the further volume is not watched", Setting: "rules", Change: cut(t, good, rules, "dir="+further.Mount), Got: "not loaded: -a always,exit -F arch=b64 -F dir=/srv/old-scans"},
			{Name: "no record of it", Setting: "old-scans: phi_access", Change: says(again, "", 1), Got: "no record of the read of /srv/old-scans/"},
		}
		return append(broken, auditBroken(t, good)...)
	})
}

func TestBackupVolumes(t *testing.T) {
	system(t, control.Backup, withFurther, backupBroken)
}

// TestUnitsAreRead: systemd reads the units of a machine with a further volume.
func TestUnitsAreRead(t *testing.T) {
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		if os.Getenv("QEMU_TESTS") == "require" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	p, r := hipaa(t), distro.All[0]
	withFurther(p)
	tree := t.TempDir()
	for _, c := range []control.Control{control.Audit(p, r), control.Backup(p, r)} {
		s := controltest.Suite{Control: c, Release: r, Profile: p}
		for name, content := range systemTree {
			file := filepath.Join(tree, name)
			if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		controltest.Apply(t, s, tree, control.Bake)
	}
	files, err := filepath.Glob(filepath.Join(tree, "etc/systemd/system/*.service"))
	if err != nil || len(files) < 4 {
		t.Fatalf("the units are %v, %v", files, err)
	}
	out, err := exec.Command("systemd-analyze", append([]string{"verify", "--man=no", "--recursive-errors=no"}, files...)...).CombinedOutput()
	for line := range strings.Lines(string(out)) {
		// The programs of the units are on the machine, not here.
		if !strings.Contains(line, "is not executable") && !strings.Contains(line, "Failed to prepare filename") {
			t.Errorf("systemd-analyze: %s", strings.TrimSpace(line))
		}
	}
	if err != nil {
		t.Logf("systemd-analyze verify: %v", err)
	}
}
