package profiles_test

import (
	"slices"
	"testing"

	"ward/images/distro"
	"ward/profiles"
	"ward/profiles/control"
	"ward/profiles/machine"
)

// TestControlsAreKnown: each control that is applied has parameters and can be
// waived by its ID, on every release.
func TestControlsAreKnown(t *testing.T) {
	p, err := profiles.Load("hipaa")
	if err != nil {
		t.Fatal(err)
	}
	p.Controls.MFA.Enabled = true
	n := 0
	for _, r := range distro.All {
		for _, c := range control.Catalogue(p, r) {
			n++
			if !slices.Contains(profiles.IDs(), c.ID) {
				t.Errorf("%s: control %q is not among the profile's: %v", r.Name(), c.ID, profiles.IDs())
			}
		}
	}
	if n == 0 {
		t.Error("looked at no control")
	}
}

// TestPeopleAreAccepted: whom the machine file accepts, the machine accepts too.
func TestPeopleAreAccepted(t *testing.T) {
	p, err := profiles.Load("hipaa")
	if err != nil {
		t.Fatal(err)
	}
	m, err := machine.Load("testdata/db1.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if len(m.People) == 0 {
		t.Fatal("the file names nobody")
	}
	if err := control.ValidatePeople(m.People, p); err != nil {
		t.Errorf("ValidatePeople() = %v, want nil", err)
	}
}
