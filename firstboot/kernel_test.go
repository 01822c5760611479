package firstboot

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf16"

	"ward/initramfs/loader"
)

// espWith is an ESP with files of ours.
func espWith(t *testing.T, names ...string) (*os.Root, string) {
	t.Helper()
	root, dir := openRoot(t)
	if err := os.MkdirAll(filepath.Join(dir, loader.UKIDir), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		if err := os.WriteFile(filepath.Join(dir, loader.UKIDir, n), []byte(n), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return root, dir
}

func list(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(dir, loader.UKIDir))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return strings.Join(names, " ")
}

func TestInstallUKI(t *testing.T) {
	for _, tt := range []struct {
		name   string
		before []string
		image  string
		want   string
	}{
		{"AnotherVersion", []string{"ward-6.1.efi"}, "new", "ward-6.1.efi ward-6.2+3.efi"},
		{"SameVersion", []string{"ward-6.2.efi"}, "new", "ward-6.2+3.efi ward-6.2~old.efi"},
		{"SameImage", []string{"ward-6.2.efi", "ward-6.2~old.efi"}, "ward-6.2.efi", "ward-6.2.efi ward-6.2~old.efi"},
		{"AgainAfterAFailure", []string{"ward-6.2+0-3.efi", "ward-6.2~old.efi"}, "new", "ward-6.2+3.efi ward-6.2~old.efi"},
		{"BackToTheProved", []string{"ward-6.2+2-1.efi", "ward-6.2.efi"}, "ward-6.2.efi", "ward-6.2.efi"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			esp, dir := espWith(t, tt.before...)
			if _, err := installUKI(esp, "6.2", []byte(tt.image)); err != nil {
				t.Fatal(err)
			}
			if got := list(t, dir); got != tt.want {
				t.Errorf("the ESP has %s, want %s", got, tt.want)
			}
		})
	}
}

func TestVariablePath(t *testing.T) {
	data := []byte{6, 0, 0, 0}
	for _, c := range utf16.Encode([]rune(`\EFI\Linux\ward-6.2+2-1.efi` + "\x00")) {
		data = append(data, byte(c), byte(c>>8))
	}
	if got, err := variablePath(data); err != nil || got != "EFI/Linux/ward-6.2+2-1.efi" {
		t.Errorf("variablePath() = %q, %v", got, err)
	}
	for _, bad := range [][]byte{nil, data[:3], data[:7], make([]byte, 2000)} {
		if got, err := variablePath(bad); err == nil {
			t.Errorf("variablePath(%d bytes) = %q, want an error", len(bad), got)
		}
	}
}
