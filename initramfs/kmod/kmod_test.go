package kmod

import (
	"reflect"
	"strings"
	"testing"
	"testing/fstest"
)

// tree has each kind of line that depmod writes.
var tree = fstest.MapFS{
	"modules.dep": {Data: []byte(`kernel/drivers/virtio/virtio_pci.ko.xz: kernel/drivers/virtio/virtio.ko.xz kernel/drivers/virtio/virtio_ring.ko.xz
kernel/drivers/virtio/virtio.ko.xz: kernel/drivers/virtio/virtio_ring.ko.xz
kernel/drivers/virtio/virtio_ring.ko.xz:
kernel/drivers/md/dm-crypt.ko.zst: kernel/drivers/md/dm-mod.ko.zst
kernel/drivers/md/dm-mod.ko.zst:
kernel/crypto/xts.ko:
kernel/crypto/ecb.ko.gz:
kernel/lib/libcrc32c.ko:
kernel/crypto/crc32c_generic.ko:
`)},
	"modules.softdep": {Data: []byte("# Soft dependencies\nsoftdep xts pre: ecb post: nothing\nsoftdep libcrc32c pre: crypto-crc32c\n")},
	"modules.alias": {Data: []byte(`# Aliases
alias virtio:d00000002v* virtio_blk
alias pci:v00001AF4d*sv*sd*bc*sc*i* virtio_pci
alias crypto-crc32c crc32c_generic
alias of:N*T*Cxlnx, x xts
`)},
	"modules.builtin": {Data: []byte("kernel/fs/ext4/ext4.ko\nkernel/lib/crc16.ko\n")},
}

func read(t *testing.T) *Table {
	t.Helper()
	table, err := Read(tree)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func TestClosure(t *testing.T) {
	table := read(t)
	for _, c := range []struct{ names, order, missing string }{
		{"virtio_pci", "virtio_ring virtio virtio_pci", ""},
		{"dm-crypt", "dm_mod dm_crypt", ""},
		{"dm_crypt dm_mod dm_crypt", "dm_mod dm_crypt", ""},
		{"xts", "ecb xts", ""},
		{"libcrc32c", "crc32c_generic libcrc32c", ""},
		{"crypto-crc32c", "crc32c_generic", ""},
		{"ext4", "", ""},
		{"no-such virtio", "virtio_ring virtio", "no-such"},
	} {
		order, missing := table.Closure(strings.Fields(c.names)...)
		if got := strings.Join(order, " "); got != c.order {
			t.Errorf("Closure(%s) = %s, want %s", c.names, got, c.order)
		}
		if got := strings.Join(missing, " "); got != c.missing {
			t.Errorf("Closure(%s) misses %q, want %q", c.names, got, c.missing)
		}
	}
}

func TestClosureEndsOnACircle(t *testing.T) {
	table, err := Read(fstest.MapFS{"modules.dep": {Data: []byte("a.ko: b.ko\nb.ko: a.ko\n")}})
	if err != nil {
		t.Fatal(err)
	}
	if order, _ := table.Closure("a"); len(order) != 2 {
		t.Errorf("Closure(a) = %v, want a and b once", order)
	}
}

func TestMatch(t *testing.T) {
	table := read(t)
	for _, c := range []struct {
		alias string
		want  []string
	}{
		{"pci:v00001AF4d00001042sv00001AF4sd00001100bc01sc00i00", []string{"virtio_pci"}},
		{"virtio:d00000002v00001AF4", []string{"virtio_blk"}},
		{"of:NfooTbarCxlnx, x", []string{"xts"}},
		{"usb:v1234", nil},
	} {
		if got := table.Match(c.alias); !reflect.DeepEqual(got, c.want) {
			t.Errorf("Match(%q) = %v, want %v", c.alias, got, c.want)
		}
	}
}

func TestReadRefuses(t *testing.T) {
	for _, c := range []struct{ file, text, want string }{
		{"modules.dep", "kernel/a.ko\n", "line 1: no colon"},
		{"modules.dep", "kernel/a.ko: ../../etc/passwd\n", "not a path below"},
		{"modules.dep", "/etc/a.ko:\n", "not a path below"},
		{"modules.dep", "kernel/a.sh:\n", "not the file of a module"},
		{"modules.dep", "kernel/.ko.xz:\n", "has no name of a module"},
		{"modules.dep", "kernel/a.ko.ko:\n", "has no name of a module"},
		{"modules.softdep", "nonsense\n", "line 1: want softdep"},
		{"modules.alias", "alias x\n", "line 1: want alias"},
	} {
		fsys := fstest.MapFS{"modules.dep": {Data: []byte("a.ko:\n")}}
		fsys[c.file] = &fstest.MapFile{Data: []byte(c.text)}
		if _, err := Read(fsys); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("Read(%s %q) = %v, want an error with %q", c.file, c.text, err, c.want)
		}
	}
	if _, err := Read(fstest.MapFS{}); err == nil || !strings.Contains(err.Error(), "modules.dep") {
		t.Errorf("Read(empty folder) = %v, want an error that names modules.dep", err)
	}
}

func TestGlob(t *testing.T) {
	for _, c := range []struct {
		pattern, s string
		want       bool
	}{
		{"", "", true}, {"*", "", true}, {"*", "a/b:c,d", true}, {"a*c", "abbbc", true}, {"a*c", "abbb", false},
		{"a?c", "abc", true}, {"a?c", "ac", false}, {"[a-c]x", "bx", true}, {"[a-c]x", "dx", false},
		{"[!a]x", "bx", true}, {"[!a]x", "ax", false}, {"[", "[", true}, {"[]]", "]", true}, {"a[", "a[", true},
		{"cpu:type:x86,ven*fam*mod*:feature:*0099*", "cpu:type:x86,ven0000fam0006mod0055:feature:,0000,0099,", true},
		{"*a*a*a*a*b", strings.Repeat("a", 200), false},
	} {
		if got := Glob(c.pattern, c.s); got != c.want {
			t.Errorf("Glob(%q, %q) = %v, want %v", c.pattern, c.s, got, c.want)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add(tree["modules.dep"].Data, tree["modules.softdep"].Data, tree["modules.alias"].Data)
	f.Fuzz(func(t *testing.T, dep, soft, alias []byte) {
		table, err := Read(fstest.MapFS{"modules.dep": {Data: dep}, "modules.softdep": {Data: soft}, "modules.alias": {Data: alias}})
		if err != nil {
			return
		}
		var names []string
		for n, p := range table.Path {
			if err := checkPath(p); err != nil {
				t.Errorf("%s: %v", n, err)
			}
			names = append(names, n)
		}
		order, missing := table.Closure(names...)
		if len(missing) > 0 || len(order) != len(names) {
			t.Errorf("the closure of all %d modules has %d, and misses %v", len(names), len(order), missing)
		}
	})
}

func FuzzGlob(f *testing.F) {
	f.Add("a[b-c]*?", "abxx")
	f.Fuzz(func(t *testing.T, pattern, s string) {
		if len(pattern) > 200 || len(s) > 200 {
			return
		}
		Glob(pattern, s)
		if !Glob(pattern+"*", "") && strings.Trim(pattern, "*") == "" {
			t.Errorf("Glob(%q, \"\") = false", pattern+"*")
		}
		if strings.ContainsAny(s, "*?[") {
			return
		}
		if !Glob(s, s) {
			t.Errorf("Glob(%q) does not match itself", s)
		}
	})
}
