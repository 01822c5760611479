package images

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"ward/images/distro"
)

// TestEmbedded: each shipped image loads, is called like its file, and has a row.
func TestEmbedded(t *testing.T) {
	names := Names()
	if len(names) == 0 {
		t.Fatal("no image is embedded")
	}
	for _, name := range names {
		img, err := Load(name)
		if err != nil {
			t.Errorf("Load(%q) = %v", name, err)
			continue
		}
		row, err := img.Row()
		if err != nil || img.Name != name || row.Name() != name {
			t.Errorf("Load(%q) is called %q, and its release %q, %v", name, img.Name, row.Name(), err)
		}
		if kernel, err := img.KernelPackage(); err != nil || kernel == "" {
			t.Errorf("%s: KernelPackage() = %q, %v, want one for %s", name, kernel, err, img.Arch)
		}
	}
	for _, r := range distro.All {
		if !slices.Contains(names, r.Name()) {
			t.Errorf("release %s has a row but no image file", r.Name())
		}
	}
}

const good = `name: clinic
distro: debian
release: "12"
arch: amd64
mirrors: ["https://mirror.example.org/debian", "file:///srv/debian"]
keyring: /etc/keys/site.gpg
security_mirror: https://mirror.example.org/debian-security
snapshot: 20260101T000000Z
repositories:
  - {name: tools, url: "https://tools.example.org/deb", suite: bookworm, components: [main], keyring: /etc/keys/tools.gpg, priority: 100}
  - {name: flat, url: "https://flat.example.org", suite: "./", key: "-----BEGIN PGP PUBLIC KEY BLOCK-----"}
packages: [postgresql-client, g++]
kernel: linux-image-amd64
base: tar:/srv/vendor/debian-12.tar.zst
disk: {esp: 64MiB, root: 4GiB, phi: 32MiB}
formats: [raw, qcow2]
modules: [generic, my_module]
kernel_args: [quiet, "hugepages=4"]
`

func load(t *testing.T, text string) (*Image, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "clinic.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return Load(file)
}

func TestLoad(t *testing.T) {
	img, err := load(t, good)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(img.Disk, Disk{ESP: 64 * MiB, Root: 4 * GiB, PHI: 32 * MiB}) || !slices.Equal(img.Modules, Modules{"generic", "my_module"}) || len(img.Mirrors) != 2 || img.KernelArgs[1] != "hugepages=4" {
		t.Errorf("Load() = %+v, want what the file says", img)
	}
}

// TestJSON: an image as a manifest holds it is a file that Load reads, so that a
// test can bake one that is changed a little.
func TestJSON(t *testing.T) {
	for _, name := range Names() {
		img, err := Load(name)
		if err != nil {
			t.Fatal(err)
		}
		img.Disk.Volumes = map[string]Size{"archive": 64 * MiB}
		text, err := json.MarshalIndent(img, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		if back, err := load(t, string(text)); err != nil || !reflect.DeepEqual(back, img) {
			t.Errorf("%s: Load() of its JSON = %+v, %v, want %+v", name, back, err, img)
		}
	}
}

func TestLoadFaults(t *testing.T) {
	for _, tt := range []struct{ name, old, new, want string }{
		{"platform", "quiet", "ignition.platform.id=aws", `kernel_args[0]: is platform "aws", whose metadata service is not supported; a config can come by firmware configuration`},
		{"unknown key", "keyring:", "keyrings:", ":6:1: keyrings: is not a known key; did you mean keyring?"},
		{"missing", "arch: amd64\n", "", `arch: is missing; add a line such as "arch: amd64"`},
		{"missing size", "root: 4GiB, ", "", `disk.root: is missing; add a line such as "root: 2GiB"`},
		{"wrong type", `release: "12"`, "release: 12", `release: is the number 12, want text; put it in quotes`},
		{"distribution", "debian\n", "debain\n", `distro: is "debain", which is not known; did you mean debian?`},
		{"release", `"12"`, `"7"`, `release: is "7", which is not known; of debian are known: `},
		{"arch", "amd64\n", "i386\n", `arch: is "i386", want amd64`},
		{"mirror", "file:///srv/debian", "ftp://x/y", `mirrors[1]: is "ftp://x/y", want an http, https or file URL`},
		{"mirror's password", "https://mirror", "https://user:hunter2@mirror", "mirrors[0]: has a name or password in it"},
		{"line", "https://mirror.example.org/debian\"", "deb https://mirror.example.org/debian\"", `mirrors[0]: is "deb https://mirror.example.org/debian", which is no line of sources.list(5); such as "deb https`},
		{"line's option", "https://mirror.example.org/debian\"", "deb [trusted=yes] https://mirror.example.org/debian bookworm main\"", `mirrors[0]: has the option "trusted", which is not accepted; known are`},
		{"line's password", "https://mirror.example.org/debian\"", "deb https://me:hunter2@mirror.example.org/debian bookworm main\"", `mirrors[0]: has a name or password in it`},
		{"line's end", "https://mirror.example.org/debian\"", "deb https://mirror.example.org/debian bookworm main # deb\"", `mirrors[0]: is "deb https`},
		{"security mirror", "https://mirror.example.org/debian-security", "mirror", `security_mirror: is "mirror", want an http, https or file URL`},
		{"security without mirror", "mirrors: [\"https://mirror.example.org/debian\", \"file:///srv/debian\"]\nkeyring: /etc/keys/site.gpg\nsecurity_mirror: https://mirror.example.org/debian-security\nsnapshot: 20260101T000000Z", "security_mirror: https://mirror.example.org/x", `security_mirror: goes with mirrors that are named by URL`},
		{"snapshot", "20260101T000000Z", "yesterday", `snapshot: is "yesterday", want the form`},
		{"repository's key", "keyring: /etc/keys/tools.gpg, ", "", `repositories[0]: has no key, and nothing unsigned is installed; add keyring: FILE`},
		{"repository's keys", "priority: 100", "key: x", `repositories[0].key: is there beside keyring; remove one`},
		{"repository's secret key", "BEGIN PGP PUBLIC", "BEGIN PGP PRIVATE", `repositories[1].key: is no armored public key`},
		{"repository's components", ", components: [main]", "", `repositories[0].components: want one or more, or none where the suite ends with a slash`},
		{"repository's URL", "https://tools.example.org/deb", "ftp://x", `repositories[0].url: is "ftp://x", want an http, https or file URL`},
		{"repository's priority", "priority: 100", "priority: 1001", `repositories[0].priority: is 1001, want 1 to 1000`},
		{"repository twice", "name: flat", "name: tools", `repositories[1].name: is "tools" again`},
		{"keyring", "/etc/keys/site.gpg", "site.gpg", `keyring: is "site.gpg", want a clean absolute path`},
		{"base's kind", "tar:/srv", "docker:/srv", `base: is "docker:/srv/vendor/debian-12.tar.zst", want the form`},
		{"base's path", "/srv/vendor", "/srv/../vendor", `base: is "/srv/../vendor/debian-12.tar.zst", want a clean absolute path`},
		{"package", "g++", "'g++; reboot'", `packages[1]: is "g++; reboot", want the form`},
		{"package option", "g++", "-o", `packages[1]: is "-o", want the form`},
		{"package twice", "g++", "postgresql-client", `packages[1]: is "postgresql-client" again`},
		{"esp", "64MiB", "63MiB", "disk.esp: is 63MiB, want 64MiB to 4GiB"},
		{"root", "4GiB", "100MiB", "disk.root: is 100MiB, want 1GiB to 16TiB"},
		{"phi", "32MiB}", "16MiB}", "disk.phi: is 16MiB, want 32MiB to 16TiB"},
		{"further volume", "32MiB}", "32MiB, volumes: {archive: 16MiB}}", "disk.volumes.archive: is 16MiB, want 32MiB to 16TiB"},
		{"further volume aligned", "32MiB}", "32MiB, volumes: {archive: 40000KiB}}", "disk.volumes.archive: is 40000KiB, want whole MiB"},
		{"further volume's size", "32MiB}", "32MiB, volumes: {archive: 64}}", "disk.volumes.archive: is the number 64, want text"},
		{"further volume twice", "32MiB}", "32MiB, volumes: {archive: 64MiB, archive: 32MiB}}", "disk.volumes.archive: is given twice"},
		{"aligned", "32MiB}", "40000KiB}", "disk.phi: is 40000KiB, want whole MiB"},
		{"decimal", "4GiB", "4GB", `disk.root: is "4GB", want a size such as 512MiB or 2GiB`},
		{"number", "4GiB", "4096", `disk.root: is the number 4096, want text`},
		{"no size", "4GiB", "-4GiB", `disk.root: is "-4GiB", want a whole number before GiB`},
		{"huge", "4GiB", "99999999999999TiB", "want a whole number before TiB"},
		{"format", "qcow2]", "qcow]", `formats[1]: is "qcow", want qcow2, raw, vmdk, vhd, vhdx, ova or tar; did you mean qcow2?`},
		{"format of a platform", "[raw, qcow2]\nmodules: [generic, my_module]", "[ova]\nmodules: [virtio, hyperv]", `formats[0]: is ova, for VMware, whose disks the initramfs would not find; add vmware to modules`},
		{"format of another", "[raw, qcow2]\nmodules: [generic, my_module]", "[raw, vhd]\nmodules: [virtio, vmware]", `formats[1]: is vhd, for Hyper-V and Azure, whose disks the initramfs would not find; add hyperv to modules`},
		{"no format", "[raw, qcow2]", "[]", "formats: has 0 values, want 1 or more"},
		{"module", "my_module", "../x", `modules[1]: is "../x", want the form`},
		{"one module", "[generic, my_module]", "../x", `modules: is "../x", want the form`},
		{"kernel line", "quiet", "quiet audit=0", `kernel_args[0]: is "quiet audit=0", which is not one plain word`},
		{"audit off", "quiet", "audit=0", `kernel_args[0]: is "audit=0", which ward sets itself or which goes around a safeguard`},
		{"own init", "quiet", "init=/bin/sh", `kernel_args[0]: is "init=/bin/sh"`},
		{"single user", "quiet", "single", `kernel_args[0]: is "single"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			text := strings.Replace(good, tt.old, tt.new, 1)
			if text == good {
				t.Fatalf("%q is not in the good file", tt.old)
			}
			_, err := load(t, text)
			if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("Load() = %v, want one line with %s", err, tt.want)
			}
			if err != nil && strings.Contains(err.Error(), "hunter2") {
				t.Errorf("Load() = %v, which shows the password", err)
			}
		})
	}
}

func TestUnknownName(t *testing.T) {
	for _, tt := range []struct{ name, want string }{
		{"debain-12", `image "debain-12" is not known; did you mean debian-12?`},
		{"plan9", "known are debian-12"},
		{"", "known are debian-12"},
		{"./no/debian-12.yaml", "there is no such file; the one that comes with ward is called debian-12"},
		{"./nowhere.yaml", "image ./nowhere.yaml: there is no such file"},
	} {
		if _, err := Load(tt.name); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("Load(%q) = %v, want %s", tt.name, err, tt.want)
		}
	}
}

// FuzzSize: whatever is accepted is written and read back as the same size.
func FuzzSize(f *testing.F) {
	for _, s := range []string{"512MiB", "2GiB", "1TiB", "4 KiB", "-1MiB", "9223372036854775807TiB", "MiB", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var size, back Size
		if size.UnmarshalText([]byte(s)) != nil {
			return
		}
		if size <= 0 || back.UnmarshalText([]byte(size.String())) != nil || back != size {
			t.Errorf("%q is %d bytes, written %q, read back %d", s, size, size, back)
		}
	})
}

// What an architecture does not have is said with its place.
func TestProcessor(t *testing.T) {
	if img, err := Load("arm64/debian-12-arm64.yaml"); err != nil || img.Arch != "arm64" {
		t.Errorf("Load(arm64) = %+v, %v", img, err)
	}
	for name, c := range map[string]struct{ arch, firmware, want string }{
		"unknown": {"riscv64", "[uefi]", "arch"},
		"bios":    {"arm64", "[uefi, bios]", "firmware[1]: is bios, which no machine with arch arm64 has"},
		"arm64":   {"arm64", "[uefi]", ""},
	} {
		file := filepath.Join(t.TempDir(), "clinic.yaml")
		text := strings.Replace(good, "arch: amd64", "arch: "+c.arch+"\nfirmware: "+c.firmware, 1)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := Load(file)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: Load() = %v, want %q", name, err, c.want)
		}
	}
}

// TestSetMirrors: what the command line names is checked as the file's is, and
// nothing of the file's other mirrors stays.
func TestSetMirrors(t *testing.T) {
	img, err := load(t, good)
	if err != nil {
		t.Fatal(err)
	}
	if err := img.SetMirrors([]string{"http://127.0.0.1:8080/debian"}, "/etc/keys/other.gpg"); err != nil || len(img.Mirrors) != 1 || img.SecurityMirror != "" || img.Snapshot != "" || img.Keyring != "/etc/keys/other.gpg" {
		t.Errorf("SetMirrors() = %v, the image is %+v", err, img)
	}
	err = img.SetMirrors([]string{"ftp://x", "deb [trusted=yes] http://x a b"}, "x.gpg")
	if err == nil || !strings.Contains(err.Error(), "mirrors[0]: is ") || !strings.Contains(err.Error(), `mirrors[1]: has the option "trusted"`) || !strings.Contains(err.Error(), "keyring: is ") {
		t.Errorf("SetMirrors() = %v, want all three faults", err)
	}
}
