package profiles

import (
	"testing"

	"ward/images/strict/stricttest"
	"ward/profiles/machine"
)

// TestReadme: the examples load, and say what the text beside them says.
func TestReadme(t *testing.T) {
	files := stricttest.Examples(t, "README.md")
	p, err := load(files["clinic.yaml"], today)
	if err != nil || p.Controls.Kernel.Sysctl["vm.swappiness"] != "1" || p.Controls.Kernel.Sysctl["kernel.kptr_restrict"] == "" || len(p.Controls.Firewall.SSHFrom) != 1 || len(p.Waivers) != 1 {
		t.Errorf("the example profile is %+v, %v", p, err)
	}
	v, err := load(files["volumes.yaml"], today)
	if err != nil || len(v.Controls.PHI.Volumes) != 1 || v.Controls.PHI.Volumes[0] != (Volume{"archive", "/var/data/archive"}) {
		t.Errorf("the example with a further volume is %+v, %v", v, err)
	}
	m, err := machine.Load(files["db1.yaml"])
	if err != nil {
		t.Fatalf("the example machine: %v", err)
	}
	if _, err := machine.Compile(m); err != nil {
		t.Errorf("the example machine: %v", err)
	}
}
