package profiles

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"ward/initramfs/handoff"
)

// The PHI volume that every machine has. What ward itself keeps on a PHI volume,
// and what fscrypt encrypts, is on this one.
const (
	DataName  = "phi-data"
	DataMount = "/var/data/phi"
)

// Volume is a further PHI volume. Its key file is NAME.key, and the image file
// says in disk.volumes how large it is.
type Volume struct {
	// Its device-mapper name, which is its partition's and its file system's too:
	// an ext4 label has at most 16 characters.
	Name string `yaml:"name" json:"name" jsonschema:"pattern=^[a-z][a-z0-9]*(-[a-z0-9]+)*$,example=archive"`
	// Where it is mounted: a clean path below /var/data/ or /srv/.
	Mount string `yaml:"mount" json:"mount" jsonschema:"pattern=^/(var/data|srv)(/[A-Za-z0-9][A-Za-z0-9_.-]*)+$,example=/var/data/archive"`
}

// All are the PHI volumes of a machine: phi-data, and the further ones in the
// order of their partitions.
func (p PHI) All() []Volume {
	return append([]Volume{{DataName, DataMount}}, p.Volumes...)
}

// Handoff are the volumes as init and wardctl are told of them.
func (p PHI) Handoff() []handoff.Volume {
	var all []handoff.Volume
	for _, v := range p.All() {
		all = append(all, handoff.Volume{Name: v.Name, PartLabel: v.Name, KeyFile: v.Name + ".key", Mount: v.Mount})
	}
	return all
}

// maxVolumeName is how many characters of a label ext4 keeps, mke2fs(8).
const maxVolumeName = 16

// takenNames are names of partitions, and the node by which device-mapper itself
// is spoken to.
var takenNames = []string{DataName, "control", "esp", "root", handoff.StateLabel}

// volumes checks the further volumes against each other and against phi-data.
func (c check) volumes() {
	all := c.p.Controls.PHI.All()
	for i, v := range c.p.Controls.PHI.Volumes {
		at := fmt.Sprintf("controls.phi.volumes[%d]", i)
		before := all[:i+1] // phi-data and those before this one
		switch {
		case v.Name == "": // said already
		case slices.Contains(takenNames, v.Name):
			c.d.Fault(at+".name", "choose another", "is %q, a name that ward itself uses", v.Name)
		case len(v.Name) > maxVolumeName:
			c.d.Fault(at+".name", "", "has %d characters, want at most %d", len(v.Name), maxVolumeName)
		case slices.ContainsFunc(before, func(o Volume) bool { return o.Name == v.Name }):
			c.d.Fault(at+".name", "choose another", "is %q again", v.Name)
		}
		for _, o := range before {
			if v.Mount != "" && o.Mount != "" && (inside(v.Mount, o.Mount) || inside(o.Mount, v.Mount)) {
				c.d.Fault(at+".mount", "choose a folder beside it", "is %q, and volume %s is mounted at %s", v.Mount, o.Name, o.Mount)
			}
		}
	}
}

// inside tells whether a path is dir or below it.
func inside(name, dir string) bool {
	name, dir = path.Clean(name), path.Clean(dir)
	return name == dir || strings.HasPrefix(name, dir+"/")
}
