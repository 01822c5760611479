package builder

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"ward/builder/disk"
	"ward/images"
	"ward/profiles"
)

// CheckVolumes compares the further PHI volumes of a profile with their sizes in
// an image, which two people write. image and profile are how messages call the
// two files. Every fault is in the error, each on a line.
func CheckVolumes(image string, img *images.Image, profile string, prof *profiles.Profile) error {
	var faults []error
	sizes := img.Disk.Volumes
	named := map[string]bool{}
	for i, v := range prof.Controls.PHI.Volumes {
		named[v.Name] = true
		if _, ok := sizes[v.Name]; !ok {
			faults = append(faults, fmt.Errorf("%s: disk.volumes.%s: is missing, and %s has the volume in controls.phi.volumes[%d]; add a line such as %q below disk.volumes",
				image, v.Name, profile, i, v.Name+": 64MiB"))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(sizes)) {
		if !named[name] {
			faults = append(faults, fmt.Errorf("%s: disk.volumes.%s: is the size of a volume that %s does not have; remove the line, or add {name: %s, mount: /var/data/%s} to controls.phi.volumes of the profile",
				image, name, profile, name, name))
		}
	}
	return errors.Join(faults...)
}

// volumes are the partitions of the further PHI volumes, in the profile's order.
func (b *build) volumes() []disk.PHI {
	var all []disk.PHI
	for _, v := range b.Profile.Controls.PHI.Volumes {
		all = append(all, disk.PHI{GUID: b.id("volume " + v.Name), Name: v.Name, Size: b.Image.Disk.Volumes[v.Name].Bytes()})
	}
	return all
}
