package qemutests

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"ward/builder/key"
	"ward/builder/proof"
	"ward/builder/vm"
)

// keyBench is one machine with PHI, frozen before its keys are changed: each cut
// starts from there, so that it costs one boot and no preparation.
type keyBench struct {
	m        *vm.VM
	f        *proof.Fixture
	device   string // image of the key device, which is exchanged in place
	old, new []byte // whole images
}

// newKeyBench boots the shared machine without firmware in between and leaves
// PHI and a witness on it: a unit that says on the console, as soon as apply has
// mounted the volume, whether each file of it is as it was written.
func newKeyBench(t *testing.T) *keyBench {
	t.Helper()
	machine(t)
	i := image(t)
	dir := t.TempDir()
	b := &keyBench{device: filepath.Join(dir, "device.img")}
	var err error
	if b.old, err = os.ReadFile(shared.fixture.Key); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(b.device, b.old, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := key.New(t.Context(), slog.New(slog.DiscardHandler), filepath.Join(dir, "new.img"), []string{"phi-data"}); err != nil {
		t.Fatal(err)
	}
	if b.new, err = os.ReadFile(filepath.Join(dir, "new.img")); err != nil {
		t.Fatal(err)
	}
	c := shared.fixture.VM(i)
	c.Image, c.Key = shared.disk, b.device
	b.m, b.f = start(t, withoutFirmware(c, i)), shared.fixture
	if said := b.init(t); said != "is open" { // read now, so that no cut finds this line
		t.Fatalf("before the first cut the volume %s", said)
	}
	root := rootShell(t, b.m, b.f)
	putFile(t, b.m, root, "/run/new.key", keyBytes(t, filepath.Join(dir, "new.img")))
	putFile(t, b.m, root, "/etc/systemd/system/witness.service", []byte(`[Unit]
Requires=ward-apply.service
After=ward-apply.service
[Service]
Type=oneshot
StandardOutput=journal+console
ExecStart=/bin/sh -c 'cd /var/data/phi && sha256sum --check --quiet --strict /root/phi.sums && echo "WITNESS all PHI is as it was written" || echo "WITNESS PHI is lost"'
[Install]
WantedBy=multi-user.target
`))
	run(t, b.m, root, `set -e
mkdir -p /var/data/phi/files
for i in $(seq 40); do head -c $((i * 100000)) /dev/urandom > /var/data/phi/files/$i; done
cd /var/data/phi && find . -xdev -type f ! -path './lost+found/*' ! -name '.ward-*' -path './files/*' -exec sha256sum {} + > /root/phi.sums
test $(wc -l < /root/phi.sums) = 40
systemctl --no-reload enable witness.service
sync; echo 3 > /proc/sys/vm/drop_caches`)
	if err := b.m.Snapshot(within(t, b.m, 2*time.Minute), "before"); err != nil {
		t.Fatal(err)
	}
	return b
}

// insert exchanges the key device.
func (b *keyBench) insert(t *testing.T, content []byte) {
	t.Helper()
	f, err := os.OpenFile(b.device, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(content, 0); err != nil {
		t.Fatal(err)
	}
}

// restore takes the machine back to before, and returns a shell of root.
func (b *keyBench) restore(t *testing.T) *vm.RootShell {
	t.Helper()
	b.insert(t, b.old)
	if err := b.m.Restore(within(t, b.m, 2*time.Minute), "before"); err != nil {
		t.Fatal(err)
	}
	return rootShell(t, b.m, b.f)
}

// cut resets the machine as it is: what the guest has not written is gone.
func (b *keyBench) cut(t *testing.T) {
	t.Helper()
	if err := b.m.Reset(within(t, b.m, time.Minute)); err != nil {
		t.Fatal(err)
	}
}

// witness waits for the next word about PHI.
func (b *keyBench) witness(t *testing.T) {
	t.Helper()
	said, err := b.m.Expect(within(t, b.m, 4*time.Minute), `WITNESS (.*?)\s*\n`)
	if err != nil {
		t.Fatal(err)
	}
	if said[1] != "all PHI is as it was written" {
		t.Errorf("the witness says %q", said[1])
	}
}

// cuts runs f at as many random instants as WARD_POWER_CUTS says (default 20).
func cuts(t *testing.T, f func(t *testing.T, n int, share float64)) {
	n := number(t, "WARD_POWER_CUTS", 20)
	seed := number(t, "WARD_SEED", int(time.Now().UnixNano()&0x7fffffff))
	t.Logf("repeat this with WARD_SEED=%d WARD_POWER_CUTS=%d", seed, n)
	random := rand.New(rand.NewPCG(uint64(seed), 1))
	for i := range n {
		share := random.Float64()
		t.Run(fmt.Sprint(i+1), func(t *testing.T) { f(t, i, share) })
	}
}

// TestRotatePowerCut cuts the power at random instants of a rotation of the key
// file: init opens the volume with one of the two key devices.
func TestRotatePowerCut(t *testing.T) {
	t.Parallel()
	b := newKeyBench(t)
	const rotate = "wardctl key rotate --new-key /run/new.key"
	root := b.restore(t)
	began := time.Now()
	run(t, b.m, root, rotate)
	length := time.Since(began)
	t.Logf("an undisturbed rotation takes %s", length.Round(time.Millisecond))
	opened := map[string]int{}
	cuts(t, func(t *testing.T, n int, share float64) {
		root := b.restore(t)
		run(t, b.m, root, "systemd-run --quiet --unit=rotation "+rotate)
		// A little beyond its end too: the unit starts later than a command does, and
		// what comes last, the removal of the old key, must be among the instants.
		at := time.Duration(share * 1.3 * float64(length))
		time.Sleep(at)
		b.cut(t)
		with := "the old key"
		said := b.init(t)
		if said != "is open" {
			with = "the new key"
			b.insert(t, b.new)
			b.cut(t)
			if again := b.init(t); again != "is open" {
				t.Fatalf("with the old key the volume %s, with the new one it %s", said, again)
			}
		}
		opened[with]++
		t.Logf("cut %s after its beginning: opens with %s", at.Round(time.Millisecond), with)
		if n%5 == 0 {
			b.witness(t)
		}
	})
	t.Logf("opened with %v", opened)
}

var initSaid = `ward-init: phi-data (is open|is not open[^\n]*?)\s*(?:device=[^\n]*)?\n`

// init waits for what init says of the volume.
func (b *keyBench) init(t *testing.T) string {
	t.Helper()
	said, err := b.m.Expect(within(t, b.m, 2*time.Minute), initSaid)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(said[1])
}

// TestRotateReencryptPowerCut cuts the power at random instants of a
// reencryption: after each cut every file is as it was, and what was begun goes
// on by itself to its end.
func TestRotateReencryptPowerCut(t *testing.T) {
	t.Parallel()
	b := newKeyBench(t)
	const reencrypt = "wardctl reencrypt --volume phi-data"
	root := b.restore(t)
	began := time.Now()
	if out, code, err := root.Run(within(t, b.m, 5*time.Minute), reencrypt); err != nil || code != 0 {
		t.Fatalf("reencrypt: exit code %d, %v: %s", code, err, out)
	}
	length := time.Since(began)
	t.Logf("an undisturbed reencryption takes %s", length.Round(time.Millisecond))
	halves := 0
	last := number(t, "WARD_POWER_CUTS", 20) - 1
	cuts(t, func(t *testing.T, n int, share float64) {
		root := b.restore(t)
		run(t, b.m, root, reencrypt+" --no-wait")
		time.Sleep(time.Duration(share * float64(length)))
		b.cut(t)
		said := b.init(t)
		if said != "is open" {
			halves++
			if !regexp.MustCompile(`requirements|another volume key|segments`).MatchString(said) {
				t.Errorf("init says that the volume %s, want that a reencryption is why", said)
			}
		}
		t.Logf("cut %s after its beginning: init says that the volume %.90s", time.Duration(share*float64(length)).Round(time.Millisecond), said)
		b.witness(t)
		if n != last {
			return
		}
		// What was begun comes to its end, and init opens the volume again.
		root = rootShell(t, b.m, b.f)
		if out, code, err := root.Run(within(t, b.m, 5*time.Minute), "for i in $(seq 600); do ls /var/lib/ward/reencrypting-* >/dev/null 2>&1 || exit 0; sleep 1; done; exit 1"); err != nil || code != 0 {
			t.Fatalf("the reencryption does not end: %v, %s", err, out)
		}
		run(t, b.m, root, "sync")
		b.cut(t)
		if said := b.init(t); said != "is open" {
			t.Errorf("after the end the volume %s", said)
		}
		b.witness(t)
	})
	if halves == 0 {
		t.Error("no cut came in the middle of the reencryption")
	}
}
