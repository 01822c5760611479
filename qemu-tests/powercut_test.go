package qemutests

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"ward/builder/proof"
	"ward/builder/vm"
)

// cutsEach is how often the power of one machine goes before the boot that must
// make it whole. A machine that is cut again while it repairs what the first cut
// left is in more states than one that is cut once, and it spares most of the
// boots to the end.
const cutsEach = 5

// TestPowerCut cuts the power of new machines at random instants of their first
// boot, also of the boots that go on with it; the boot that is left alone ends
// with every control passing and the volume for PHI that was there before.
// WARD_POWER_CUTS is how many cuts there are in all (default 2), WARD_SEED repeats
// a run.
func TestPowerCut(t *testing.T) {
	t.Parallel()
	i := image(t)
	machine(t)
	first, _ := phiIn(t, raw(t, i.Disk()))
	cuts := number(t, "WARD_POWER_CUTS", 2)
	seed := number(t, "WARD_SEED", int(time.Now().UnixNano()&0x7fffffff))
	t.Logf("repeat this with WARD_SEED=%d WARD_POWER_CUTS=%d; the first boot of the shared machine took %s", seed, cuts, shared.took.Round(time.Second))
	var spans [2]atomic.Int64
	for n := range spans {
		spans[n].Store(int64(shared.took))
	}
	for n := 0; cuts > 0; n++ {
		quota := min(cuts, cutsEach)
		cuts -= quota
		random := rand.New(rand.NewPCG(uint64(seed), uint64(n)))
		t.Run(fmt.Sprintf("%d", n+1), func(t *testing.T) {
			t.Parallel()
			for quota > 0 {
				c := newMachine(t)
				done := cutOften(t, c, first, random, quota, &spans)
				if done == 0 {
					t.Log("the machine was ready before its instant: another one")
				}
				quota -= done
			}
		})
	}
}

// newMachine is a machine that was never started.
func newMachine(t *testing.T) vm.Config {
	t.Helper()
	i := image(t)
	c := fixture(t).VM(i)
	c.State = filepath.Join(t.TempDir(), "machine")
	return withoutFirmware(c, i)
}

// withoutFirmware starts the image's kernel directly: a firmware writes nothing of
// ours and would take half of the time of a boot. The console has every line of init.
func withoutFirmware(c vm.Config, i *proof.Image) vm.Config {
	c.Firmware, c.Kernel, c.Initrd = "direct", filepath.Join(i.Dir, "vmlinuz"), filepath.Join(i.Dir, "initramfs.img")
	c.Append = strings.ReplaceAll(i.Manifest.Cmdline, "loglevel=5", "loglevel=7")
	return c
}

// cutOften cuts the power of one machine until it has lost it most times, or was
// ready before its instant, and returns how often. The last boot is left alone.
// spans are how long a new machine's boot takes and one that goes on after a cut, in
// nanoseconds: what the shared machine took, until a machine here was faster.
func cutOften(t *testing.T, c vm.Config, phiAt int64, random *rand.Rand, most int, spans *[2]atomic.Int64) (done int) {
	t.Helper()
	var uuid string // of the volume, once there is one
	for ; ; done++ {
		m := start(t, c)
		span := &spans[min(done, 1)]
		// Any instant between our init's first line, before which nothing is written,
		// and the verdict.
		began := time.Now()
		if _, err := m.Expect(within(t, m, time.Minute), `ward-init:`); err != nil {
			t.Fatal(err)
		}
		limit := m.Timeout(proof.BootTime)
		if done < most {
			left := time.Duration(span.Load()) - time.Since(began)
			if left <= 0 {
				t.Fatalf("init's first line came after %s, and a whole boot took %s", time.Since(began), time.Duration(span.Load()))
			}
			limit = time.Duration(random.Float64() * float64(left))
		}
		first := time.Since(began)
		began = time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		r, err := m.Verdict(ctx)
		cancel()
		switch {
		case err == nil: // left alone, or ready before its instant
			if took := int64(first + time.Since(began)); took < span.Load() {
				span.Store(took)
			}
			allPass(t, r)
			if err := m.Err(); err != nil {
				t.Error(err)
			}
			powerDown(t, m)
			m.Close()
			if got := luksUUID(t, m.Disk(), phiAt); uuid != "" && got != uuid {
				t.Errorf("the volume was %s before the last boot, now it is %q", uuid, got)
			} else {
				t.Logf("cut %d times, then whole after %s, volume %s", done, time.Since(began).Round(time.Second), got)
			}
			return done
		case done == most || !errors.Is(err, context.DeadlineExceeded):
			t.Fatal(err)
		}
		m.Kill()
		t.Logf("cut %d: the power went %s after init's first line; last line: %q", done+1, time.Since(began).Round(time.Millisecond), m.Tail(1))
		m.Close()
		switch got := luksUUID(t, m.Disk(), phiAt); {
		case uuid != "" && got == "":
			// Formatting goes on where it was cut, and wipes the header first; the
			// intent on the root disk has the number that the next one must have.
			t.Logf("cut %d: in the middle of formatting again", done+1)
		case uuid != "" && got != uuid:
			t.Errorf("the volume was %s, after cut %d it is %s", uuid, done+1, got)
		case got != "":
			uuid = got
		}
	}
}

// luksUUID reads the number in the header of a disk's PHI partition, as
// cryptsetup's LUKS2 on-disk format has it; empty when there is no header.
func luksUUID(t *testing.T, disk string, phiAt int64) string {
	t.Helper()
	head := filepath.Join(t.TempDir(), "header")
	const sector = 512 // qemu-img counts from the start of the disk, not from skip
	out, err := exec.Command("qemu-img", "dd", "-O", "raw", "bs=512", "if="+disk, "of="+head,
		"skip="+strconv.FormatInt(phiAt/sector, 10), "count="+strconv.FormatInt(phiAt/sector+8, 10)).CombinedOutput()
	if err != nil {
		t.Fatalf("qemu-img dd %s: %v: %s", disk, err, out)
	}
	b, err := os.ReadFile(head)
	if err != nil || len(b) < 208 {
		t.Fatalf("header of %s: %d bytes, %v", disk, len(b), err)
	}
	if string(b[:6]) != "LUKS\xba\xbe" {
		return ""
	}
	return strings.TrimRight(string(b[168:208]), "\x00")
}

func number(t *testing.T, name string, otherwise int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("%s=%q, want a number from 1", name, text)
	}
	return n
}
