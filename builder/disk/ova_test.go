package disk

import (
	"bytes"
	"crypto/sha256"
	"encoding/xml"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write the golden files anew")

// allocated is what a file takes on its disk.
func allocated(name string) (int64, error) {
	var s syscall.Stat_t
	err := syscall.Stat(name, &s)
	return s.Blocks * 512, err
}

func TestOVA(t *testing.T) {
	l, dir := layout(t), t.TempDir()
	log := slog.New(slog.DiscardHandler)
	raw, vmdk, ova := filepath.Join(dir, "disk.raw"), filepath.Join(dir, "disk.vmdk"), filepath.Join(dir, "clinic.ova")
	if err := Write(t.Context(), log, raw, l); err != nil {
		t.Fatal(err)
	}
	f, err := FindFormat("vmdk")
	if err != nil {
		t.Fatal(err)
	}
	if err := Convert(t.Context(), log, f, raw, vmdk); err != nil {
		t.Fatal(err)
	}
	if err := WriteOVA(ova, OVA{Name: "clinic", Disk: vmdk, Capacity: l.Size(), Time: time.Unix(1700000000, 0)}); err != nil {
		t.Fatal(err)
	}
	if got := run(t, "tar", "-tf", ova); got != "clinic.ovf\nclinic.mf\ndisk.vmdk\n" {
		t.Errorf("tar -t = %q, want descriptor, manifest, disk in this order", got)
	}
	out := t.TempDir()
	run(t, "tar", "-xf", ova, "-C", out)
	if !bytes.Equal(read(t, filepath.Join(out, "disk.vmdk")), read(t, vmdk)) {
		t.Error("the disk in the OVA is another one")
	}
	// sha256sum's form of the same digests, so that another program judges them.
	var sums strings.Builder
	for line := range strings.Lines(string(read(t, filepath.Join(out, "clinic.mf")))) {
		name, sum, ok := strings.Cut(strings.TrimPrefix(strings.TrimSpace(line), "SHA256("), ")= ")
		if !ok {
			t.Fatalf("manifest: cannot read %q", line)
		}
		fmt.Fprintf(&sums, "%s  %s\n", sum, filepath.Join(out, name))
	}
	file := filepath.Join(out, "sums")
	if err := os.WriteFile(file, []byte(sums.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := run(t, "sha256sum", "--check", file); strings.Count(got, ": OK") != 2 {
		t.Errorf("sha256sum --check: %s", got)
	}

	text := read(t, filepath.Join(out, "clinic.ovf"))
	var envelope struct {
		File struct {
			ID   string `xml:"id,attr"`
			Href string `xml:"href,attr"`
			Size int64  `xml:"size,attr"`
		} `xml:"References>File"`
		Disk struct {
			ID       string `xml:"diskId,attr"`
			Ref      string `xml:"fileRef,attr"`
			Capacity int64  `xml:"capacity,attr"`
		} `xml:"DiskSection>Disk"`
		Items []struct {
			Type string `xml:"ResourceType"`
			Host string `xml:"HostResource"`
		} `xml:"VirtualSystem>VirtualHardwareSection>Item"`
	}
	if err := xml.Unmarshal(text, &envelope); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(vmdk)
	if err != nil {
		t.Fatal(err)
	}
	if e := envelope; e.File.Href != "disk.vmdk" || e.File.Size != info.Size() || e.Disk.Ref != e.File.ID || e.Disk.Capacity != l.Size() || len(e.Items) != 5 || e.Items[3].Host != "ovf:/disk/"+e.Disk.ID {
		t.Errorf("the descriptor reads as %+v", e)
	}
	// The golden file has a disk whose size is no property of zlib's version.
	small := filepath.Join(dir, "small.vmdk")
	if err := os.WriteFile(small, []byte("disk"), 0o600); err != nil {
		t.Fatal(err)
	}
	var sum [2][32]byte
	for i := range sum {
		path := filepath.Join(t.TempDir(), "golden.ova")
		if err := WriteOVA(path, OVA{Name: "clinic", Disk: small, Capacity: 3 << 30, Time: time.Unix(1700000000, 0)}); err != nil {
			t.Fatal(err)
		}
		sum[i] = sha256.Sum256(read(t, path))
		golden(t, "testdata/clinic.ovf", run(t, "tar", "-xOf", path, "clinic.ovf"))
	}
	if sum[0] != sum[1] {
		t.Errorf("two OVAs of one disk differ: %x and %x", sum[0], sum[1])
	}
}

func TestOVARefuses(t *testing.T) {
	dir := t.TempDir()
	if err := WriteOVA(filepath.Join(dir, "a.ova"), OVA{Name: "a", Disk: filepath.Join(dir, "none.vmdk")}); err == nil || !strings.Contains(err.Error(), "none.vmdk: no such file") {
		t.Errorf("WriteOVA() = %v, want an error that names the disk", err)
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(name, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if want := string(read(t, name)); got != want {
		t.Errorf("%s:\ngot\n%s\nwant\n%s", name, got, want)
	}
}
