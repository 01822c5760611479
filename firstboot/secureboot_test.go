package firstboot

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestCheckKernel(t *testing.T) {
	const refused = "Secure Boot is on and the key that signs kernel images is not on the machine"
	for _, c := range []struct {
		name     string
		variable []byte // nil: the file is not there
		efi      bool
		signed   bool
		want     string // in the error; empty: none
	}{
		{"BIOS", nil, false, true, ""},
		{"off", []byte{6, 0, 0, 0, 0}, true, true, ""},
		{"on", []byte{6, 0, 0, 0, 1}, true, true, refused},
		{"on, unsigned image", []byte{6, 0, 0, 0, 1}, true, false, refused},
		{"UEFI that does not say, unsigned image", nil, true, false, ""},
		{"UEFI whose variables are not shown", nil, true, true, "shows no variable, and the image is signed"},
		{"UEFI without Secure Boot", []byte("other"), true, true, ""},
		{"cut", []byte{6, 0, 0, 0}, true, true, "has 4 bytes, want 5"},
	} {
		t.Run(c.name, func(t *testing.T) {
			root, dir := openRoot(t)
			if c.efi {
				if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(secureBootPath)), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			if c.variable != nil {
				name := secureBootPath
				if string(c.variable) == "other" {
					name = efiVars + "/BootOrder-8be4df61-93ca-11d2-aa0d-00e098032b8c"
				}
				if err := os.WriteFile(filepath.Join(dir, name), c.variable, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			m := &Machine{root: root, facts: &facts{}}
			if c.signed {
				m.facts.Image.SecureBoot = "00"
			}
			err := m.CheckKernel("6.1.0-56-cloud-amd64")
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("CheckKernel = %v, want an error with %q", err, c.want)
			}
			// Nothing is read, packed or written before it has been asked.
			if c.want == refused {
				if err := m.UpdateKernel(t.Context(), "6.1.0-56-cloud-amd64"); err == nil || !strings.Contains(err.Error(), refused) {
					t.Errorf("UpdateKernel = %v, want an error with %q", err, refused)
				}
			}
		})
	}
	m := &Machine{facts: &facts{}}
	if err := m.CheckKernel("../6"); err == nil || !strings.Contains(err.Error(), "not one") {
		t.Errorf("CheckKernel(../6) = %v, want that it is no version", err)
	}
}
