package builder

import (
	"reflect"
	"strings"
	"testing"

	"ward/builder/disk"
	"ward/images"
	"ward/profiles"
)

func withVolumes(t *testing.T, sizes map[string]images.Size, volumes ...profiles.Volume) (*images.Image, *profiles.Profile) {
	t.Helper()
	img, err := images.Load("debian-12")
	if err != nil {
		t.Fatal(err)
	}
	p, err := profiles.Load("hipaa")
	if err != nil {
		t.Fatal(err)
	}
	img.Disk.Volumes, p.Controls.PHI.Volumes = sizes, volumes
	return img, p
}

func TestCheckVolumes(t *testing.T) {
	archive, scans := profiles.Volume{Name: "archive", Mount: "/var/data/archive"}, profiles.Volume{Name: "scans", Mount: "/srv/scans"}
	for _, c := range []struct {
		name    string
		sizes   map[string]images.Size
		volumes []profiles.Volume
		want    []string // a line each
	}{
		{"none", nil, nil, nil},
		{"both", map[string]images.Size{"archive": images.GiB, "scans": images.GiB}, []profiles.Volume{archive, scans}, nil},
		{"no size", nil, []profiles.Volume{archive}, []string{`a.yaml: disk.volumes.archive: is missing, and p.yaml has the volume in controls.phi.volumes[0]; add a line such as "archive: 64MiB"`}},
		{"no volume", map[string]images.Size{"scans": images.GiB}, nil, []string{"a.yaml: disk.volumes.scans: is the size of a volume that p.yaml does not have; remove the line, or add {name: scans, mount: /var/data/scans}"}},
		{"all at once", map[string]images.Size{"scan": images.GiB, "old": images.GiB}, []profiles.Volume{archive, scans},
			[]string{"disk.volumes.archive: is missing", "disk.volumes.scans: is missing", "disk.volumes.old: is the size", "disk.volumes.scan: is the size"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			img, p := withVolumes(t, c.sizes, c.volumes...)
			err := CheckVolumes("a.yaml", img, "p.yaml", p)
			if len(c.want) == 0 {
				if err != nil {
					t.Errorf("CheckVolumes() = %v, want none", err)
				}
				return
			}
			if err == nil {
				t.Fatal("CheckVolumes() finds nothing wrong")
			}
			lines := strings.Split(err.Error(), "\n")
			if len(lines) != len(c.want) {
				t.Fatalf("CheckVolumes() has %d lines, want %d: %v", len(lines), len(c.want), err)
			}
			for i, want := range c.want {
				if !strings.Contains(lines[i], want) {
					t.Errorf("line %d is %q, want %q", i+1, lines[i], want)
				}
			}
			if _, err := newBuild(Options{Image: img, Profile: p}); err == nil || !strings.Contains(err.Error(), "image debian-12: disk.volumes.") {
				t.Errorf("newBuild() = %v, want the same faults", err)
			}
		})
	}
}

// TestVolumes: init is told of each volume, and each has a partition of its own.
func TestVolumes(t *testing.T) {
	img, p := withVolumes(t, map[string]images.Size{"scans": 2 * images.GiB, "disk": images.GiB},
		profiles.Volume{Name: "scans", Mount: "/srv/scans"}, profiles.Volume{Name: "disk", Mount: "/srv/disk"})
	b, err := newBuild(Options{Image: img, Profile: p})
	if err != nil {
		t.Fatal(err)
	}
	c := b.initConfig()
	if err := c.Validate(); err != nil || len(c.Volumes) != 3 || c.Volumes[0].Name != "phi-data" || c.Volumes[1].KeyFile != "scans.key" || c.Volumes[2].Mount != "/srv/disk" {
		t.Errorf("initConfig() = %+v, %v, want phi-data, scans and disk", c.Volumes, err)
	}
	parts := b.volumes()
	if want := []disk.PHI{{GUID: b.id("volume scans"), Name: "scans", Size: 2 << 30}, {GUID: b.id("volume disk"), Name: "disk", Size: 1 << 30}}; !reflect.DeepEqual(parts, want) {
		t.Errorf("volumes() = %+v, want %+v", parts, want)
	}
	seen := map[string]bool{b.id("disk"): true, b.id("esp"): true, b.id("root"): true, b.id("phi-data"): true}
	for _, v := range parts {
		if seen[v.GUID] {
			t.Errorf("%s has the GUID %s of another", v.Name, v.GUID)
		}
		seen[v.GUID] = true
	}
}
