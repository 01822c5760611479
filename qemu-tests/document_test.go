package qemutests

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"ward/builder/proof"
	"ward/builder/vm"
)

var piece = regexp.MustCompile(`msg=document document="([^"]+)" file=(\S+) sha256=([0-9a-f]{64}) piece=(\d+)/(\d+) data="?([A-Za-z0-9+/=]+)`)

// document puts together what a machine sent to the log server in pieces.
func document(t *testing.T, f *proof.Fixture, what, file string) []byte {
	t.Helper()
	// The log server is behind by what the machine has audited before.
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Minute)
	defer cancel()
	pieces := map[int]string{}
	digest, total := "", 0
	for try := 0; total == 0 || len(pieces) < total; try++ {
		if try > 0 {
			select {
			case <-ctx.Done():
				t.Fatalf("the log server has %d of %d pieces of %s %s", len(pieces), total, what, file)
			case <-time.After(time.Second):
			}
		}
		text, err := os.ReadFile(filepath.Join(f.Dir, "received.log"))
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range piece.FindAllStringSubmatch(string(text), -1) {
			if p[1] != what || p[2] != file {
				continue
			}
			var n int
			fmt.Sscan(p[4], &n)
			fmt.Sscan(p[5], &total)
			pieces[n], digest = p[6], p[3]
		}
	}
	var all strings.Builder
	for n := range total {
		all.WriteString(pieces[n+1])
	}
	packed, err := base64.StdEncoding.DecodeString(all.String())
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	content, err := io.ReadAll(z)
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	if sum := sha256.Sum256(content); hex.EncodeToString(sum[:]) != digest {
		t.Errorf("%s on the log server has another digest than its lines say", file)
	}
	return content
}

// signed has ssh-keygen on the host compare a file's signature with the host key
// that the machine shows to whoever connects.
func signed(t *testing.T, m *vm.VM, root *vm.RootShell, namespace, file string) {
	t.Helper()
	dir := t.TempDir()
	for name, content := range map[string]string{
		"sig": getFile(t, m, root, file+".sig"), "allowed": "machine " + run(t, m, root, "cat /etc/ssh/ssh_host_ed25519_key.pub"),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	content := getFile(t, m, root, file)
	for text, want := range map[string]bool{content: true, content + " ": false} {
		cmd := exec.Command("ssh-keygen", "-Y", "verify", "-f", filepath.Join(dir, "allowed"), "-I", "machine", "-n", namespace, "-s", filepath.Join(dir, "sig"))
		cmd.Stdin = strings.NewReader(text)
		out, err := cmd.CombinedOutput()
		if (err == nil) != want || !want && !strings.Contains(string(out), "incorrect signature") {
			t.Errorf("ssh-keygen -Y verify of %s, changed: %v: %v: %s", file, !want, err, out)
		}
	}
}
