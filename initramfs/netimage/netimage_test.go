package netimage

import (
	"bytes"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"
)

// packed is a disk of two and a half chunks, its second one zero, in packed form.
func packed(t testing.TB) (Disk, []byte, []byte) {
	t.Helper()
	plain := make([]byte, 2*ChunkSize+ChunkSize/2)
	random := rand.New(rand.NewPCG(1, 2))
	for i := range plain {
		if i < ChunkSize || i >= 2*ChunkSize {
			plain[i] = byte(random.Uint32() >> 28) // compressible
		}
	}
	var file bytes.Buffer
	d, err := Pack(&file, bytes.NewReader(plain), int64(len(plain)))
	if err != nil {
		t.Fatal(err)
	}
	d.File, d.Sector = DiskFile, 512
	return d, plain, file.Bytes()
}

func manifest(t testing.TB) (*Manifest, []byte) {
	t.Helper()
	d, _, _ := packed(t)
	m := &Manifest{
		Version: Version, Image: "debian-12", Digest: "d", Made: time.Unix(1, 0).UTC(), Disk: d, Target: "blank",
		Machines: []Machine{{MAC: "52:54:00:12:34:56", Config: "a.ign", SHA256: strings.Repeat("0a", 32), Target: "serial:S1"}},
	}
	text, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return m, text
}

// Each chunk can be fetched and unpacked alone, and together they are the disk.
func TestPackAndUnpack(t *testing.T) {
	d, plain, file := packed(t)
	if len(d.Chunks) != 3 || !d.Chunks[1].Zero || d.Chunks[0].Zero || d.Chunks[2].Zero {
		t.Fatalf("chunks = %+v, want three, the second zero", d.Chunks)
	}
	u, err := NewUnpacker()
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range []int{2, 0, 1} {
		at := d.Offset(i)
		got, err := u.Unpack(d, i, file[at:at+d.Chunks[i].Bytes])
		if err != nil {
			t.Fatal(err)
		}
		from := int64(i) * ChunkSize
		if !bytes.Equal(got, plain[from:from+d.Length(i)]) {
			t.Errorf("chunk %d is not what was packed", i)
		}
	}
	frame := bytes.Clone(file[:d.Chunks[0].Bytes])
	frame[len(frame)/2] ^= 1
	if _, err := u.Unpack(d, 0, frame); !errors.Is(err, ErrDigest) || !strings.Contains(err.Error(), "chunk 0 has sha256") {
		t.Errorf("Unpack of a changed frame = %v, want ErrDigest and which chunk", err)
	}
	if _, err := u.Unpack(d, 0, file[d.Offset(1):d.Offset(2)]); !errors.Is(err, ErrDigest) {
		t.Errorf("Unpack of another chunk's frame = %v, want ErrDigest", err)
	}
}

func TestOpenVerifiesBeforeItParses(t *testing.T) {
	secret, public, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	m, text := manifest(t)
	sig, err := Sign(secret, text, "a comment")
	if err != nil {
		t.Fatal(err)
	}
	got, err := Open(text, sig, string(public))
	if err != nil || !reflect.DeepEqual(got, m) {
		t.Fatalf("Open() = %+v, %v, want the manifest", got, err)
	}
	otherSecret, otherPublic, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := Sign(otherSecret, text, "")
	if err != nil {
		t.Fatal(err)
	}
	changed := bytes.Replace(text, []byte("debian-12"), []byte("debian-13"), 1)
	for name, c := range map[string]struct {
		text, sig []byte
		public    []byte
		want      string
	}{
		"changed manifest":          {changed, sig, public, "was changed"},
		"changed comment":           {text, bytes.Replace(sig, []byte("a comment"), []byte("A comment"), 1), public, "was changed"},
		"another key's":             {text, foreign, public, "it is of key"},
		"another key pinned":        {text, sig, otherPublic, "it is of key"},
		"cut signature":             {text, sig[:len(sig)/2], public, "pinned key: "},
		"no JSON, with a signature": {[]byte("{"), sig, public, "was changed"},
		"large":                     {make([]byte, MaxManifest+1), sig, public, "too large"},
	} {
		if _, err := Open(c.text, c.sig, string(c.public)); !errors.Is(err, ErrSignature) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: Open() = %v, want ErrSignature and %q", name, err, c.want)
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Manifest)
		want   string
	}{
		"version":        {func(m *Manifest) { m.Version = 2 }, "version 2"},
		"file above":     {func(m *Manifest) { m.Disk.File = "../disk.zst" }, "disk.file"},
		"sum":            {func(m *Manifest) { m.Disk.SHA256 = "AB" }, "disk.sha256"},
		"sector":         {func(m *Manifest) { m.Disk.Sector = 520 }, "disk.sector"},
		"huge chunks":    {func(m *Manifest) { m.Disk.ChunkSize = 1 << 40 }, "disk.chunk_size"},
		"missing chunk":  {func(m *Manifest) { m.Disk.Chunks = m.Disk.Chunks[1:] }, "disk.chunks: 2"},
		"large frame":    {func(m *Manifest) { m.Disk.Chunks[0].Bytes = 1 << 30 }, "disk.chunks[0]"},
		"negative frame": {func(m *Manifest) { m.Disk.Chunks[0].Bytes = -1 }, "disk.chunks[0]"},
		"target":         {func(m *Manifest) { m.Target = "any" }, "target: "},
		"no name":        {func(m *Manifest) { m.Machines[0].MAC = "" }, "machines[0]: want a mac or a serial"},
		"MAC":            {func(m *Manifest) { m.Machines[0].MAC = "52-54-00-12-34-56" }, "machines[0].mac"},
		"twice":          {func(m *Manifest) { m.Machines = append(m.Machines, m.Machines[0]) }, "is there twice"},
		"config above":   {func(m *Manifest) { m.Machines[0].Config = "/etc/shadow" }, "machines[0].config"},
	} {
		m, _ := manifest(t)
		c.change(m)
		text, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Decode(text); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: Decode() = %v, want %q", name, err, c.want)
		}
	}
	_, text := manifest(t)
	for name, c := range map[string]struct{ text, want string }{
		"unknown field":      {strings.Replace(string(text), `"image"`, `"imagine"`, 1), "imagine"},
		"text after the end": {string(text) + "{}", "text after the end"},
	} {
		if _, err := Decode([]byte(c.text)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: Decode() = %v, want %q", name, err, c.want)
		}
	}
}

func TestFind(t *testing.T) {
	m, _ := manifest(t)
	m.Machines = append(m.Machines, Machine{Serial: "X1", Config: "b.ign"})
	if x, ok, err := m.Find([]string{"52:54:00:12:34:56"}, ""); err != nil || !ok || x.Config != "a.ign" {
		t.Errorf("Find by MAC = %+v, %v, %v", x, ok, err)
	}
	if x, ok, err := m.Find(nil, "X1"); err != nil || !ok || x.Config != "b.ign" {
		t.Errorf("Find by serial = %+v, %v, %v", x, ok, err)
	}
	if _, ok, err := m.Find([]string{"52:54:00:00:00:00"}, ""); ok || err != nil {
		t.Errorf("Find of a stranger = %v, %v, want none", ok, err)
	}
	if _, _, err := m.Find([]string{"52:54:00:12:34:56"}, "X1"); err == nil || !strings.Contains(err.Error(), "2 machines") {
		t.Errorf("Find of two = %v, want an error that names both", err)
	}
}

func TestParseRule(t *testing.T) {
	for in, want := range map[string]Rule{
		"blank":            {Kind: "blank"},
		"serial:S 1":       {Kind: "serial", Value: "S 1"},
		"wwn:0x5000":       {Kind: "wwn", Value: "0x5000"},
		"size:480GB-1TiB":  {Kind: "size", Value: "480GB-1TiB", Min: 480e9, Max: 1 << 40},
		"size:8GiB":        {Kind: "size", Value: "8GiB", Min: 8 << 30, Max: 8 << 30},
		"size:480GB-":      {Kind: "size", Value: "480GB-", Min: 480e9, Max: 1<<63 - 1},
		"size:2TiB-1TiB":   {},
		"size:9999999TiB-": {},
		"size:ten":         {},
		"serial:":          {},
		"":                 {},
		"any":              {},
	} {
		got, err := ParseRule(in)
		if got != want || (err == nil) != (want.Kind != "") {
			t.Errorf("ParseRule(%q) = %+v, %v, want %+v", in, got, err, want)
		}
	}
}

// FuzzDecode: what is accepted is valid, and says the same when it is written again.
func FuzzDecode(f *testing.F) {
	_, text := manifest(f)
	f.Add(text)
	f.Add([]byte(`{"version":1}`))
	if _, err := Decode(text); err != nil {
		f.Fatalf("the seed does not get past the guard: %v", err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := Decode(data)
		if err != nil {
			return
		}
		again, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		n, err := Decode(again)
		if err != nil {
			t.Fatalf("written again: %v", err)
		}
		if twice, err := json.Marshal(n); err != nil || !bytes.Equal(again, twice) {
			t.Errorf("written again it is %s, %v, was %s", twice, err, again)
		}
	})
}

func FuzzParseRule(f *testing.F) {
	for _, s := range []string{"blank", "serial:x", "size:1GB-2GiB", "size:-", "size:18446744073709551615TiB"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParseRule(s)
		if err == nil && (r.Min < 0 || r.Max < r.Min) {
			t.Errorf("ParseRule(%q) = %+v, a range that is none", s, r)
		}
	})
}
