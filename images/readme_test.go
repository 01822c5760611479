package images

import (
	"os"
	"slices"
	"strings"
	"testing"

	"ward/images/strict/stricttest"
)

// TestReadme: the example loads, and the table names every key.
func TestReadme(t *testing.T) {
	img, err := Load(stricttest.Examples(t, "README.md")["clinic-image.yaml"])
	if err != nil || img.Name != "clinic" || !slices.Equal(img.Formats, []string{"qcow2", "raw"}) {
		t.Errorf("the example is %+v, %v", img, err)
	}
	img, err = Load(stricttest.Examples(t, "README.md")["volumes-image.yaml"])
	if err != nil || img.Disk.Volumes["archive"] != 64*GiB {
		t.Errorf("the example with a further volume is %+v, %v", img, err)
	}
	img, err = Load(stricttest.Examples(t, "README.md")["mirror-image.yaml"])
	if err != nil || len(img.Repositories) != 1 || img.Repositories[0].Priority != 100 {
		t.Errorf("the example with mirrors is %+v, %v", img, err)
	}
	img, err = Load(stricttest.Examples(t, "README.md")["rocky-image.yaml"])
	if err != nil || len(img.Mirrors) != 4 {
		t.Errorf("the example of an rpm release is %+v, %v", img, err)
	}
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"name", "distro", "release", "arch", "mirrors", "security_mirror", "snapshot", "repositories", "keyring", "packages", "kernel", "disk", "formats", "modules", "kernel_args"} {
		if !strings.Contains(string(text), "`"+key+"`") {
			t.Errorf("README.md does not tell of %s", key)
		}
	}
}
