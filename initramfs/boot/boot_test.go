package boot

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"ward/initramfs/boot/cmdline"
	"ward/initramfs/boot/disks"
	"ward/initramfs/boot/luksheader"
	"ward/initramfs/handoff"
)

func TestParseRoot(t *testing.T) {
	b := disks.Block{Path: "/dev/vda2", PartUUID: "ab-02", PartLabel: "root", Superblock: disks.Superblock{FS: "ext4", Label: "system", UUID: "AB-CD"}}
	for _, c := range []struct {
		root string
		want bool
	}{
		{"PARTUUID=AB-02", true}, {"PARTUUID=ab-03", false}, {"PARTLABEL=root", true}, {"PARTLABEL=Root", false},
		{"UUID=ab-cd", true}, {"UUID=\"ab-cd\"", true}, {"LABEL=system", true}, {"/dev/vda2", true}, {"/dev/vda1", false},
	} {
		spec, err := parseRoot(c.root)
		if err != nil {
			t.Errorf("parseRoot(%q): %v", c.root, err)
			continue
		}
		if got := spec.match(b); got != c.want {
			t.Errorf("root=%s matches %v, want %v", c.root, got, c.want)
		}
	}
	for _, bad := range []string{"", "PARTUUID=", "nfs", "/dev/", "ZFS=x"} {
		if _, err := parseRoot(bad); err == nil || !strings.Contains(err.Error(), "root="+bad) {
			t.Errorf("parseRoot(%q) = %v, want an error that quotes it", bad, err)
		}
	}
}

func TestChoose(t *testing.T) {
	key := luksheader.Slot{ID: 1, KDF: "pbkdf2", Iterations: 1000}
	recovery := luksheader.Slot{ID: 0, KDF: "argon2id", Time: 4, MemoryKiB: 1 << 20, CPUs: 4}
	small := luksheader.Slot{ID: 2, KDF: "argon2id", Time: 10, MemoryKiB: 65 << 10, CPUs: 4}
	for _, c := range []struct {
		name    string
		slots   []luksheader.Slot
		known   []int
		free    int
		try     []int
		skipped int
	}{
		{"the key file's slot only", []luksheader.Slot{key, recovery}, nil, 8 << 20, []int{1}, 0},
		{"no cheap slot", []luksheader.Slot{small, recovery}, nil, 8 << 20, []int{2, 0}, 0},
		{"memory for one of two", []luksheader.Slot{small, recovery}, nil, 1 << 20, []int{2}, 1},
		{"a slot that the source names", []luksheader.Slot{key, small, recovery}, []int{0}, 8 << 20, []int{0}, 0},
		{"no memory", []luksheader.Slot{recovery}, nil, 1 << 10, nil, 1},
	} {
		try, skipped := choose(c.slots, c.known, c.free)
		var ids []int
		for _, s := range try {
			ids = append(ids, s.ID)
		}
		if len(ids) != len(c.try) || len(skipped) != c.skipped {
			t.Errorf("%s: choose = %v, %v, want slots %v and %d skipped", c.name, ids, skipped, c.try, c.skipped)
			continue
		}
		for i := range ids {
			if ids[i] != c.try[i] {
				t.Errorf("%s: choose = %v, want %v", c.name, ids, c.try)
			}
		}
	}
}

func TestIsBlank(t *testing.T) {
	blank := make([]byte, 17<<20)
	for _, c := range []struct {
		name string
		at   int
		want bool
	}{{"all zero", -1, true}, {"first byte", 0, false}, {"last byte of 16 MiB", 16<<20 - 1, false}} {
		data := bytes.Clone(blank)
		if c.at >= 0 {
			data[c.at] = 1
		}
		if got, err := isBlank(bytes.NewReader(data), int64(len(data))); err != nil || got != c.want {
			t.Errorf("%s: isBlank = %v, %v, want %v", c.name, got, err, c.want)
		}
	}
	if got, err := isBlank(bytes.NewReader(blank[:100]), 100); err != nil || !got {
		t.Errorf("isBlank of 100 zero bytes = %v, %v, want true", got, err)
	}
	if _, err := isBlank(failing{}, 1<<20); err == nil {
		t.Error("isBlank calls a disk blank that cannot be read")
	}
}

type failing struct{}

func (failing) ReadAt([]byte, int64) (int, error) { return 0, errors.New("input/output error") }

func TestKmsg(t *testing.T) {
	var b bytes.Buffer
	level := &slog.LevelVar{}
	log := slog.New(&kmsgHandler{out: &b, level: level, mu: &sync.Mutex{}})
	log.Debug("not yet")
	log.Info("root is mounted", "device", "/dev/vda1", "note", "two words")
	log.With("volume", "phi").Error("one\ntwo\x1b[2J")
	level.Set(slog.LevelDebug)
	log.Debug("now", "empty", "")
	log.Warn(strings.Repeat("x", 5000))
	lines := strings.Split(strings.TrimRight(b.String(), "\n"), "\n")
	want := []string{
		`<14>ward-init: root is mounted device=/dev/vda1 note="two words"`,
		`<11>ward-init: one; two [2J volume=phi`,
		`<15>ward-init: now empty=""`,
	}
	for i, w := range want {
		if i >= len(lines) || lines[i] != w {
			t.Errorf("line %d is %q, want %q", i, lines[i], w)
		}
	}
	if last := lines[len(lines)-1]; len(last) > 1000 || !strings.HasPrefix(last, "<12>") {
		t.Errorf("a long message has %d bytes and begins with %q", len(last), last[:10])
	}
}

func TestUdevEntry(t *testing.T) {
	got := udevEntry("phi-data", "CRYPT-LUKS2-0123-phi-data")
	for _, want := range []string{"S:mapper/phi-data\n", "E:DM_UDEV_PRIMARY_SOURCE_FLAG=1\n", "E:DM_NAME=phi-data\n", "E:DM_UUID=CRYPT-LUKS2-0123-phi-data\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("entry lacks %q:\n%s", want, got)
		}
	}
}

func TestObey(t *testing.T) {
	for _, c := range []struct {
		policy string
		states []handoff.State
		want   string // part of the error, "" for none
	}{
		{handoff.Halt, []handoff.State{handoff.StateOpened, handoff.StateBlank}, ""},
		{handoff.Halt, []handoff.State{handoff.StateOpened, handoff.StateLocked}, "b is locked"},
		{handoff.Halt, []handoff.State{handoff.StateAbsent, handoff.StateRefused}, "a is absent"},
		{handoff.Halt, []handoff.State{""}, "a is "},
		{handoff.Degrade, []handoff.State{handoff.StateAbsent, handoff.StateRefused}, ""},
	} {
		m := &machine{config: handoff.Config{OnFailure: c.policy}}
		var rs []handoff.VolumeReport
		for i, s := range c.states {
			rs = append(rs, handoff.VolumeReport{Name: string(rune('a' + i)), State: s})
		}
		err := m.obey(rs)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s with %v: %v, want %q", c.policy, c.states, err, c.want)
		}
	}
}

func TestTimeout(t *testing.T) {
	for line, want := range map[string]time.Duration{
		"": time.Minute, "ward.timeout=5": 5 * time.Second, "ward.timeout=0": time.Minute,
		"ward.timeout=-1": time.Minute, "ward.timeout=x": time.Minute, "ward.timeout=99999": time.Minute,
	} {
		m := &machine{line: cmdline.Parse(line), log: slog.New(slog.DiscardHandler)}
		if got := m.timeout(time.Minute); got != want {
			t.Errorf("%q: timeout = %s, want %s", line, got, want)
		}
	}
}

// TestJobSurvivesAPanic: a fault of ours is an error of the phase, not one of PID 1.
func TestJobSurvivesAPanic(t *testing.T) {
	m := &machine{start: time.Now(), log: slog.New(slog.DiscardHandler)}
	j := m.job("modules", func() error { panic("broken") })
	if err := j.wait(); err == nil || !strings.Contains(err.Error(), "modules: init is broken: broken") {
		t.Errorf("wait() = %v, want an error that says so", err)
	}
}

// A volume's time begins when root is there, however long that takes.
func TestAfterRoot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &machine{rooted: &job{done: make(chan struct{})}}
		began := time.Now()
		ctx, cancel := m.afterRoot(15 * time.Second)
		defer cancel()
		time.Sleep(50 * time.Second)
		if ctx.Err() != nil {
			t.Fatalf("the wait for a volume ended %s after the start, without root", time.Since(began))
		}
		close(m.rooted.done)
		<-ctx.Done()
		if took := time.Since(began); took != 65*time.Second {
			t.Errorf("the wait ended after %s, want 15 s after root, which took 50 s", took)
		}
	})
}
