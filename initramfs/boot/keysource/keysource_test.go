package keysource

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ward/initramfs/boot/disks"
	"ward/initramfs/handoff"
)

var secret = bytes.Repeat([]byte("0123456789abcdef"), 4)

func request(sources ...handoff.Source) Request {
	return Request{KeyFile: "phi-data.key", Sources: sources, Log: slog.New(slog.DiscardHandler)}
}

func TestKeyIsLockedAndWiped(t *testing.T) {
	in := bytes.Clone(secret)
	k, err := KeyOf(in)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(k.Bytes(), secret) {
		t.Error("the key is not what was put in")
	}
	if bytes.Contains(in, []byte("0123")) {
		t.Error("KeyOf leaves a copy with its caller")
	}
	for _, s := range []string{fmt.Sprint(k), fmt.Sprintf("%v %+v %#v %s", k, k, k, k)} {
		if strings.Contains(s, "0123") || strings.Contains(s, "48, 49") {
			t.Errorf("a key prints as %q", s)
		}
	}
	status, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(status), " lo ") && !strings.Contains(string(status), " lo\n") {
		t.Error("no memory of this process is locked")
	}
	k.Wipe()
	k.Wipe() // twice is fine
	var none *Key
	none.Wipe()
	if k.mem != nil {
		t.Error("a wiped key still has its memory")
	}
}

func TestKeyLength(t *testing.T) {
	for _, n := range []int{0, MinBytes - 1, MaxBytes + 1} {
		want := fmt.Sprintf("key file of %d bytes, want 32 to 8192", n)
		if _, err := KeyOf(make([]byte, n)); err == nil || err.Error() != want {
			t.Errorf("KeyOf(%d bytes) = %v, want %q", n, err, want)
		}
	}
}

// folder opens a folder as mountDetached gives one.
func folder(t *testing.T, files map[string][]byte) int {
	t.Helper()
	dir := t.TempDir()
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o400); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/etc/hostname", filepath.Join(dir, "link.key")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "folder.key"), 0o700); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

func TestReadKeyAt(t *testing.T) {
	dir := folder(t, map[string][]byte{"phi-data.key": secret, "odd.key": secret[:37], "full.key": make([]byte, MaxBytes), "empty.key": nil, "large.key": make([]byte, MaxBytes+1)})
	for _, c := range []struct {
		name string
		n    int
		want string
	}{
		{"phi-data.key", 64, ""}, {"odd.key", 37, ""}, {"full.key", MaxBytes, ""},
		{"empty.key", 0, "key file of 0 bytes"}, {"large.key", 0, "key file of 8193 bytes"},
		{"none.key", 0, "none.key: no such file"}, {"link.key", 0, "too many levels"}, {"folder.key", 0, "not a regular file"},
		{"../x.key", 0, "cross-device"},
	} {
		k, err := readKeyAt(dir, c.name)
		if c.want == "" {
			if err != nil {
				t.Errorf("%s: %v", c.name, err)
				continue
			}
			if len(k.Bytes()) != c.n {
				t.Errorf("%s: %d bytes, want %d", c.name, len(k.Bytes()), c.n)
			}
			k.Wipe()
			continue
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want an error with %q", c.name, err, c.want)
		}
	}
}

func put(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// smbios is a structure of type 11 with strings, DSP0134 7.12.
func smbios(strs ...string) []byte {
	return append([]byte{11, 5, 0, 1, byte(len(strs))}, []byte(strings.Join(strs, "\x00")+"\x00\x00")...)
}

func places(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	a, b, c := fwCfgDir, smbiosDir, embeddedDir
	t.Cleanup(func() { fwCfgDir, smbiosDir, embeddedDir = a, b, c })
	fwCfgDir, smbiosDir, embeddedDir = dir+"/fw", dir+"/dmi", dir+"/keys"
	return dir
}

func TestFetchOrder(t *testing.T) {
	dir := places(t)
	other := bytes.Repeat([]byte("x"), 64)
	put(t, dir+"/dmi/11-0/raw", smbios("some string", SMBIOSPrefix("phi-data.key")+base64.StdEncoding.EncodeToString(secret)))
	put(t, dir+"/keys/phi-data.key", other)
	for _, c := range []struct {
		sources []handoff.Source
		source  string
		key     []byte
	}{
		{[]handoff.Source{{Type: "fw_cfg"}, {Type: "smbios"}, {Type: "embedded"}}, "smbios", secret},
		{[]handoff.Source{{Type: "embedded"}, {Type: "smbios"}}, "embedded", other},
	} {
		k, source, err := Fetch(t.Context(), request(c.sources...))
		if err != nil {
			t.Fatal(err)
		}
		if source != c.source || !bytes.Equal(k.Bytes(), c.key) {
			t.Errorf("Fetch = %q from %s, want %q from %s", k.Bytes(), source, c.key, c.source)
		}
		k.Wipe()
	}
}

func TestFetchNamesEachSource(t *testing.T) {
	dir := places(t)
	put(t, dir+"/fw/"+FwCfgName("phi-data.key")+"/raw", []byte("short"))
	put(t, dir+"/dmi/11-0/raw", smbios(SMBIOSPrefix("phi-data.key")+"not base64!"))
	put(t, dir+"/keys/phi-data.key", make([]byte, MaxBytes+1))
	_, _, err := Fetch(t.Context(), request(handoff.Source{Type: "fw_cfg"}, handoff.Source{Type: "smbios"}, handoff.Source{Type: "embedded"}, handoff.Source{Type: "tpm2"}))
	if !errors.Is(err, ErrNone) {
		t.Fatalf("Fetch = %v, want %v", err, ErrNone)
	}
	for _, want := range []string{"phi-data.key: no source has the key: fw_cfg: ", "key file of 5 bytes", "; smbios: OEM string io.systemd.credential.binary:ward.key.phi-data.key: illegal base64", "; embedded: ", "more than 8192 bytes", "; tpm2: this program has no such source"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("Fetch = %v, want %q in it", err, want)
		}
	}
	if strings.Contains(err.Error(), "not base64!") || strings.Contains(err.Error(), "\n") {
		t.Errorf("the error holds what may be a key, or more than a line: %v", err)
	}
	if _, _, err := Fetch(t.Context(), request()); !errors.Is(err, ErrNone) || !strings.Contains(err.Error(), "none is configured") {
		t.Errorf("Fetch without sources = %v", err)
	}
}

func TestFetchTimeouts(t *testing.T) {
	dir := places(t)
	put(t, dir+"/keys/phi-data.key", bytes.Clone(secret))
	req := request(handoff.Source{Type: "slow", TimeoutMS: 30}, handoff.Source{Type: "device", Label: "x", TimeoutMS: 30}, handoff.Source{Type: "embedded"})
	req.Disks = disks.New(req.Log)
	req.More = map[string]Fetcher{"slow": func(ctx context.Context, _ handoff.Source, _ Request) (*Key, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}}
	start := time.Now()
	k, source, err := Fetch(t.Context(), req)
	if err != nil || source != "embedded" {
		t.Fatalf("Fetch = %s, %v, want embedded", source, err)
	}
	k.Wipe()
	if took := time.Since(start); took < 60*time.Millisecond || took > 5*time.Second {
		t.Errorf("Fetch took %s, want a little more than the 60 ms of two time limits", took)
	}
	req.Sources = req.Sources[:2]
	if _, _, err := Fetch(t.Context(), req); err == nil || strings.Count(err.Error(), "no answer in 30ms") != 2 {
		t.Errorf("Fetch = %v, want two sources without an answer in 30ms", err)
	}
}

// TestDefaultTimeouts: each type that a configuration may name has one.
func TestDefaultTimeouts(t *testing.T) {
	for _, s := range handoff.SourceTypes {
		if defaultTimeout[s] <= 0 {
			t.Errorf("%s has no time limit", s)
		}
	}
}

func TestOEMString(t *testing.T) {
	raw := smbios("a", "key=VALUE", "b")
	if v, ok := oemString(raw, "key="); !ok || string(v) != "VALUE" {
		t.Errorf("oemString = %q, %v, want VALUE", v, ok)
	}
	for _, bad := range [][]byte{nil, {11}, {11, 200, 0, 0, 1}, {1, 5, 0, 0, 1, 'k', 'e', 'y', '=', 'x', 0}, smbios("no")} {
		if v, ok := oemString(bad, "key="); ok {
			t.Errorf("oemString(%q) = %q, want none", bad, v)
		}
	}
}

func TestOEMKeyGoesOnToTheNext(t *testing.T) {
	dir := places(t)
	put(t, dir+"/dmi/11-0/raw", smbios("other"))
	put(t, dir+"/dmi/11-1/raw", smbios(SMBIOSPrefix("phi-data.key")+base64.StdEncoding.EncodeToString(secret)))
	k, err := fromSMBIOS(t.Context(), handoff.Source{}, request())
	if err != nil || !bytes.Equal(k.Bytes(), secret) {
		t.Errorf("fromSMBIOS = %v", err)
	}
	k.Wipe()
	if _, err := oemKey(dir+"/dmi/11-0/raw", "none="); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("oemKey = %v, want %v", err, fs.ErrNotExist)
	}
}

func FuzzOEMString(f *testing.F) {
	f.Add(smbios("a", "key=VALUE"), "key=")
	f.Fuzz(func(t *testing.T, raw []byte, prefix string) {
		if v, ok := oemString(raw, prefix); ok && !bytes.Contains(raw, append([]byte(prefix), v...)) {
			t.Errorf("oemString(%q, %q) = %q, which is not in it", raw, prefix, v)
		}
	})
}

// TestSealedIsTold: a source that keeps the key to itself is told on the console also
// where another one has it; one that simply has none is not.
func TestSealedIsTold(t *testing.T) {
	var said bytes.Buffer
	req := request(handoff.Source{Type: "none"}, handoff.Source{Type: "tpm2"}, handoff.Source{Type: "good"})
	req.Log = slog.New(slog.NewTextHandler(&said, nil))
	req.More = map[string]Fetcher{
		"none": func(context.Context, handoff.Source, Request) (*Key, error) { return nil, errors.New("nothing here") },
		"tpm2": func(context.Context, handoff.Source, Request) (*Key, error) {
			return nil, fmt.Errorf("%w: PCR 7 has another value", ErrSealed)
		},
		"good": func(context.Context, handoff.Source, Request) (*Key, error) { return KeyOf(bytes.Clone(secret)) },
	}
	k, source, err := Fetch(t.Context(), req)
	if err != nil || source != "good" {
		t.Fatalf("Fetch = %s, %v, want the key of good", source, err)
	}
	defer k.Wipe()
	if got := said.String(); strings.Count(got, "level=WARN") != 1 || !strings.Contains(got, "phi-data.key: tpm2: the key stays sealed: PCR 7 has another value") {
		t.Errorf("logged %q, want one warning with the reason", got)
	}
}
