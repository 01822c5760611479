package qemutests

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ward/initramfs/handoff"
)

// sealedProfile has the key on a device, and from the first boot on in the TPM.
const sealedProfile = `name: sealed
extends: hipaa
controls:
  phi:
    key_sources: [tpm2, device]
`

// TestTPM seals the key to the state of Secure Boot and to the kernel image: the
// next boot opens PHI without the key device, one in another state does not and
// says why, and a boot with the key device seals anew.
func TestTPM(t *testing.T) {
	t.Parallel()
	image(t)
	i, keys := bakeSigned(t, sealedProfile)
	b := &bootBench{f: fixture(t)}
	b.c = b.f.VM(i)
	b.c.State, b.c.TPM, b.c.SecureBoot = t.TempDir(), true, keys
	key := b.c.Key

	t.Log("first boot, Secure Boot on, with the key device: the key is sealed")
	b.up(t)
	sealedBy(t, b, "device")
	nothingOfTheKey(t, b, keyBytes(t, key))
	b.down(t)

	b.c.Key = ""
	t.Log("the same state, no key device")
	b.opens(t, "tpm2")

	t.Log("Secure Boot off: PCR 7 is another")
	b.firmware(t, "")
	b.stays(t)
	b.c.Key = key
	b.up(t)
	sealedBy(t, b, "device")
	b.down(t)
	b.c.Key = ""
	b.opens(t, "tpm2")

	t.Log("another kernel image: PCR 11 is another")
	b.up(t)
	b.update(t, "s/$/ ward.updated/")
	b.down(t)
	b.stays(t)
	b.c.Key = key
	b.up(t)
	sealedBy(t, b, "device")
	if out := run(t, b.m, b.root, "cat /proc/cmdline"); !strings.Contains(out, "ward.updated") {
		t.Errorf("the updated image was not started: %s", out)
	}
	b.down(t)
	b.c.Key = ""
	b.opens(t, "tpm2")
}

// firmware gives the machine another firmware: one with these keys, or one without
// Secure Boot. Its variables begin anew, its TPM stays.
func (b *bootBench) firmware(t *testing.T, keys string) {
	t.Helper()
	b.c.SecureBoot = keys
	if err := os.Remove(filepath.Join(b.c.State, "vars.qcow2")); err != nil {
		t.Fatal(err)
	}
}

// opens boots and expects that the key came from a source.
func (b *bootBench) opens(t *testing.T, source string) {
	t.Helper()
	b.up(t)
	sealedBy(t, b, source)
	b.down(t)
}

// stays boots and expects that the TPM keeps the key to itself, and says why.
func (b *bootBench) stays(t *testing.T) {
	t.Helper()
	b.m = start(t, b.c)
	r := verdict(t, b.m, b.bootID)
	b.bootID = r.BootID
	locked(t, r, handoff.StateLocked)
	const reason = "tpm2: the key stays sealed: one of the PCRs [7 11] has another value"
	if v := r.Init.Volumes[0]; !strings.Contains(v.Reason, reason) {
		t.Errorf("init reports %q, want %q", v.Reason, reason)
	}
	if !strings.Contains(b.m.ConsoleText(), reason) {
		t.Errorf("the console does not say %q", reason)
	}
	b.down(t)
}

// sealedBy expects where init got the key, and one token for the slot of the key file.
func sealedBy(t *testing.T, b *bootBench, source string) {
	t.Helper()
	out := run(t, b.m, b.root, `set -e
dev=$(blkid -t PARTLABEL=phi-data -o device)
echo "source $(grep -o '"key_source": "[a-z0-9]*"' /run/ward/handoff.json || true)"
cryptsetup luksDump "$dev"
tr -d '\n' </run/ward/handoff.json`)
	// On the very first boot init meets a blank partition, and asks nobody.
	first := strings.Contains(out, `"state": "blank"`)
	if !first && !strings.Contains(out, fmt.Sprintf(`source "key_source": %q`, source)) {
		t.Errorf("init's key did not come from %s:\n%s", source, out)
	}
	if strings.Count(out, ": ward-tpm2") != 1 {
		t.Errorf("want one token of ward:\n%s", out)
	}
}

// nothingOfTheKey looks for a key where wardctl could have left it, in every form
// that a program writes by itself, after it was shown to find something.
func nothingOfTheKey(t *testing.T, b *bootBench, key []byte) {
	t.Helper()
	search := func(what []byte) string {
		var raw strings.Builder
		for _, c := range what[:24] {
			fmt.Fprintf(&raw, `\x%02x`, c)
		}
		pattern := strings.Join([]string{raw.String(), "(?i:" + ofItself(hex.EncodeToString(what[:24])) + ")", ofItself(base64.StdEncoding.EncodeToString(what[:24]))}, "|")
		return runFor(t, b.m, b.root, 3*time.Minute, `cd /
LC_ALL=C grep -rlaP -D skip -e '`+pattern+`' /run /var/log /var/lib/ward /etc 2>/dev/null
LC_ALL=C grep -laP -e '`+pattern+`' /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null
journalctl --no-pager -o cat | LC_ALL=C grep -caP -e '`+pattern+`' | grep -v '^0$'
true`)
	}
	witness := make([]byte, 24)
	rand.Read(witness)
	run(t, b.m, b.root, "echo "+hex.EncodeToString(witness)+" >/run/ward/witness")
	if out := search(witness); !strings.Contains(out, "/run/ward/witness") {
		t.Fatalf("the search does not find what is there: %q", out)
	}
	run(t, b.m, b.root, "rm /run/ward/witness")
	if out := search(key); strings.TrimSpace(out) != "" {
		t.Errorf("the key is in:\n%s", out)
	}
}

// ofItself is a pattern that finds a text and not the pattern: the search is an
// argument too, and is recorded.
func ofItself(s string) string { return "[" + s[:1] + "]" + strings.ReplaceAll(s[1:], "+", `\+`) }
