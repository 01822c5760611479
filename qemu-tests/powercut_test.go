package qemutests

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

// TestPowerCut cuts the power of a new machine at a random instant of its first
// boot; the next boot ends with every control passing. WARD_POWER_CUTS is how
// many machines suffer that (default 2), WARD_SEED repeats a run.
func TestPowerCut(t *testing.T) {
	t.Parallel()
	i := image(t)
	machine(t)
	cuts := number(t, "WARD_POWER_CUTS", 2)
	seed := number(t, "WARD_SEED", int(time.Now().UnixNano()&0x7fffffff))
	t.Logf("repeat this with WARD_SEED=%d WARD_POWER_CUTS=%d", seed, cuts)
	random := rand.New(rand.NewPCG(uint64(seed), 0))
	for n := range cuts {
		share := random.Float64()
		t.Run(fmt.Sprintf("%d", n+1), func(t *testing.T) {
			f := fixture(t)
			c := f.VM(i)
			c.State = filepath.Join(t.TempDir(), "machine")
			m := start(t, c)
			// Any instant between our init's first line, before which nothing is written,
			// and the verdict; the shared machine showed how long that takes here.
			began := time.Now()
			if _, err := m.Expect(within(t, m, time.Minute), `ward-init:`); err != nil {
				t.Fatal(err)
			}
			length := shared.took - time.Since(began)
			if length <= 0 {
				t.Fatalf("init's first line came after %s, and the whole first boot of the shared machine took %s", time.Since(began), shared.took)
			}
			began = time.Now()
			wait := time.Duration(share * float64(length))
			select {
			case <-time.After(wait):
			case <-m.Done():
				t.Fatal(m.Err())
			}
			m.Kill()
			t.Logf("the power went %s after init's first line; last line: %q", time.Since(began).Round(time.Millisecond), m.Tail(1))
			m.Close()

			m = start(t, c)
			r := verdict(t, m, "")
			allPass(t, r)
			if err := m.Err(); err != nil {
				t.Error(err)
			}
			powerDown(t, m)
			m.Close()
		})
	}
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
