package loader

import (
	"strings"
	"testing"
)

func TestNames(t *testing.T) {
	for _, tt := range []struct {
		name string
		want UKI
	}{
		{"ward-6.1.0-56-cloud-amd64.efi", UKI{Version: "6.1.0-56-cloud-amd64"}},
		{"ward-6.1.0-56-cloud-amd64+3.efi", UKI{Version: "6.1.0-56-cloud-amd64", Counted: true, Tries: 3}},
		{"ward-6.1.0-56-cloud-amd64+0-3.efi", UKI{Version: "6.1.0-56-cloud-amd64", Counted: true, Done: 3}},
		// Debian 13's versions have a plus sign of their own.
		{"ward-6.12.48+deb13-cloud-amd64.efi", UKI{Version: "6.12.48+deb13-cloud-amd64"}},
		{"ward-6.12.48+deb13-cloud-amd64+2-1.efi", UKI{Version: "6.12.48+deb13-cloud-amd64", Counted: true, Tries: 2, Done: 1}},
		{"ward-6.1.0-56~old.efi", UKI{Version: "6.1.0-56", Old: true}},
	} {
		got, ok := Parse("EFI/Linux/" + tt.name)
		if !ok || got != tt.want {
			t.Errorf("Parse(%q) = %+v, %v, want %+v", tt.name, got, ok, tt.want)
		}
		if got.Name() != tt.name {
			t.Errorf("%+v.Name() = %q, want %q", got, got.Name(), tt.name)
		}
		if g := got.Good(); g.Counted || g.Version != tt.want.Version || strings.Contains(g.Name(), "+2") {
			t.Errorf("%q becomes %q when it is good", tt.name, g.Name())
		}
	}
	for _, bad := range []string{"", "ward-.efi", "ward-+3.efi", "arch-6.1.efi", "ward-6.1.efi.new", "ward-6.1"} {
		if got, ok := Parse(bad); ok {
			t.Errorf("Parse(%q) = %+v, want that it is none of ours", bad, got)
		}
	}
	if got := New("6.1").Path(); got != "EFI/Linux/ward-6.1+3.efi" {
		t.Errorf("New().Path() = %q", got)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("ward-6.1.0-56-cloud-amd64+3-1.efi")
	f.Add("ward-6.12.48+deb13~old+0.efi")
	f.Fuzz(func(t *testing.T, name string) {
		u, ok := Parse(name)
		if !ok {
			return
		}
		again, ok := Parse(u.Name())
		if !ok || again != u {
			t.Errorf("%q is %+v, whose name %q is %+v", name, u, u.Name(), again)
		}
	})
}

func TestSyslinux(t *testing.T) {
	got := Syslinux([]string{"6.2", "6.1"}, "root=PARTUUID=x ro")
	for _, want := range []string{
		"DEFAULT 6.2\n", "LABEL 6.2\n  LINUX vmlinuz-6.2\n  INITRD initrd-6.2\n  APPEND root=PARTUUID=x ro\n", "LABEL 6.1\n", "PROMPT 0\n", "NOESCAPE 1\n", "ALLOWOPTIONS 0\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
}
