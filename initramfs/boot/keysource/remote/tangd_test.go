package remote

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"ward/initramfs/boot/luksheader"
	"ward/initramfs/handoff"
)

// TestTangd binds a volume with the distribution's clevis to the distribution's
// tangd, and recovers from its header a passphrase that cryptsetup accepts for
// the slot that the token names.
func TestTangd(t *testing.T) {
	const libexec = "/usr/libexec/"
	for _, program := range []string{libexec + "tangd", libexec + "tangd-keygen", "clevis-luks-bind", "cryptsetup"} {
		if _, err := exec.LookPath(program); err != nil {
			if os.Getenv("QEMU_TESTS") == "require" {
				t.Fatal(err)
			}
			t.Skip(err)
		}
	}
	run := func(name string, args ...string) {
		t.Helper()
		if out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", name, err, out)
		}
	}
	dir, keys := t.TempDir(), t.TempDir()
	img, keyFile := filepath.Join(dir, "volume"), filepath.Join(dir, "key")
	run(libexec+"tangd-keygen", keys)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	// A tangd for each connection, as inetd would start it.
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			f, err := c.(*net.TCPConn).File()
			c.Close()
			if err != nil {
				continue
			}
			cmd := exec.CommandContext(t.Context(), libexec+"tangd", keys)
			cmd.Stdin, cmd.Stdout = f, f
			if cmd.Start() == nil {
				go cmd.Wait()
			}
			f.Close()
		}
	}()
	url := fmt.Sprintf("http://%s", l.Addr())

	const size = 24 << 20
	if err := os.WriteFile(img, make([]byte, size), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(keyFile, bytes.Repeat([]byte("0123456789abcdef"), 4), 0o600); err != nil {
		t.Fatal(err)
	}
	run("cryptsetup", "luksFormat", "--batch-mode", "--type", "luks2", "--cipher", "aes-xts-plain64", "--key-size", "512",
		"--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--key-file", keyFile, img)
	run("clevis-luks-bind", "-f", "-y", "-k", keyFile, "-d", img, "tang", fmt.Sprintf(`{"url":%q}`, url))
	f, err := os.Open(img)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h, err := luksheader.Read(f, size)
	if err != nil {
		t.Fatal(err)
	}
	var n fetcher
	key, err := n.fromTang(t.Context(), handoff.Source{URL: url}, request(h.Tokens...))
	if err != nil {
		t.Fatal(err)
	}
	defer key.Wipe()
	if !reflect.DeepEqual(key.Slots(), []int{1}) {
		t.Errorf("the key is for slots %v, want [1], which clevis has added", key.Slots())
	}
	opens := exec.CommandContext(t.Context(), "cryptsetup", "open", "--test-passphrase", "--key-slot", "1", "--key-file", "-", img)
	opens.Stdin = bytes.NewReader(key.Bytes())
	if out, err := opens.CombinedOutput(); err != nil {
		t.Errorf("cryptsetup does not open slot 1 with what tangd and the token gave: %v: %s", err, out)
	}

	// Another server's keys: the volume stays locked, and it says why.
	for _, pattern := range []string{"*.jwk", ".*.jwk"} {
		old, err := filepath.Glob(filepath.Join(keys, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range old {
			if err := os.Remove(k); err != nil {
				t.Fatal(err)
			}
		}
	}
	run(libexec+"tangd-keygen", keys)
	began := time.Now()
	if _, err := n.fromTang(t.Context(), handoff.Source{URL: url}, request(h.Tokens...)); err == nil || !strings.Contains(err.Error(), "404 Not Found") {
		t.Errorf("fromTang after the server's keys are gone = %v, want 404 Not Found", err)
	}
	t.Logf("refused after %s", time.Since(began).Round(time.Millisecond))
}
