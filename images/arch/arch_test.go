package arch

import (
	"reflect"
	"strings"
	"testing"
)

func TestRows(t *testing.T) {
	for _, a := range All {
		if got, err := Find(a.Name); err != nil || !reflect.DeepEqual(got, a) {
			t.Errorf("Find(%s) = %+v, %v", a.Name, got, err)
		}
		if a.Machine == "" || a.EFI == "" || a.Console == "" {
			t.Errorf("%s: a column is empty: %+v", a.Name, a)
		}
	}
	if _, err := Find("riscv64"); err == nil || !strings.Contains(err.Error(), "known are: amd64, arm64") {
		t.Errorf("Find(riscv64) = %v, want an error that lists the known ones", err)
	}
}

// Names of the boot files: UEFI 2.10, table 3-2, and systemd-stub(7).
func TestNames(t *testing.T) {
	for name, want := range map[string][3]string{
		"amd64": {"/EFI/BOOT/BOOTX64.EFI", "usr/lib/systemd/boot/efi/linuxx64.efi.stub", "usr/lib/systemd/boot/efi/systemd-bootx64.efi"},
		"arm64": {"/EFI/BOOT/BOOTAA64.EFI", "usr/lib/systemd/boot/efi/linuxaa64.efi.stub", "usr/lib/systemd/boot/efi/systemd-bootaa64.efi"},
	} {
		a, err := Find(name)
		if err != nil {
			t.Fatal(err)
		}
		got := [3]string{a.BootFile(), a.File("usr/lib/systemd/boot/efi/linuxx64.efi.stub"), a.File("usr/lib/systemd/boot/efi/systemd-bootx64.efi")}
		if got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}
