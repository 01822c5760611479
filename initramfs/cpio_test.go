package initramfs

import (
	"bytes"
	"io"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/u-root/u-root/pkg/cpio"
)

// FuzzCpio packs a file of any name and content as Build does. What is read back
// is what was put in, and each folder comes before what is in it: the kernel
// makes none by itself.
func FuzzCpio(f *testing.F) {
	f.Add("lib/modules/6.1/kernel/a.ko", []byte("\x7fELF"))
	f.Add("init", []byte{})
	f.Add("070701", []byte("TRAILER!!!"))
	f.Fuzz(func(t *testing.T, name string, data []byte) {
		// The names that Build writes: below the root, without what ends a C string.
		name = strings.TrimPrefix(path.Clean("/"+name), "/")
		if name == "" || name == "TRAILER!!!" || strings.ContainsRune(name, 0) || len(name) > 255 {
			return
		}
		var plain bytes.Buffer
		if err := archive(&plain, withParents([]cpio.Record{cpio.StaticFile(name, string(data), 0o400)})); err != nil {
			t.Fatal(err)
		}
		rs, err := cpio.ReadAllRecords(cpio.Newc.Reader(bytes.NewReader(plain.Bytes())))
		if err != nil {
			t.Fatalf("%q: %v", name, err)
		}
		var names []string
		for _, r := range rs {
			if dir := path.Dir(r.Name); dir != "." && !slices.Contains(names, dir) {
				t.Errorf("%q comes before its folder", r.Name)
			}
			names = append(names, r.Name)
			if r.Name != name {
				continue
			}
			got, err := io.ReadAll(io.NewSectionReader(r, 0, int64(r.FileSize)))
			if err != nil || !bytes.Equal(got, data) || r.Mode&0o777 != 0o400 {
				t.Errorf("%q: %d bytes, mode %o, %v, want the %d bytes that were packed", name, len(got), r.Mode, err, len(data))
			}
		}
		if !slices.Contains(names, name) {
			t.Errorf("the archive has %q, and lacks %q", names, name)
		}
	})
}
