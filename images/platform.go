package images

import (
	"slices"
	"strings"
)

// Platforms are the values of ignition.platform.id for which a machine finds its
// config: by QEMU's firmware configuration, on a config drive, or at an address.
// Clouds that hand a config out over plain HTTP (aws, azure, gcp) or through their
// own tools (vmware, virtualbox) are not among them.
var Platforms = []string{"qemu", "metal", "openstack", "proxmoxve", "nutanix", "kubevirt"}

// ConfigWays says how a machine gets a config.
const ConfigWays = "firmware configuration (opt/com.coreos/config), a config drive, or ignition.config.url= with ward.config.ca="

func (c check) platform(at, arg string) {
	id, ok := strings.CutPrefix(arg, "ignition.platform.id=")
	if ok && !slices.Contains(Platforms, id) {
		c.d.Fault(at, "a config can come by "+ConfigWays, "is platform %q, whose metadata service is not supported", id)
	}
}
