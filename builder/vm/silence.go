package vm

import (
	"context"
	"time"
)

// A firmware that has started shows something within seconds. OVMF waits without an end
// for the other processors, and on a host that is short of time one may never hear that
// it is to start (github.com/tianocore/edk2/pull/13164: the same seen elsewhere). Such a
// machine runs nothing of the image, shows nothing, and would hold a test up to its last
// minute; it is reset.
const (
	firmwareSilence = 15 * time.Second // under KVM; see Timeout
	leftover        = 2 * time.Second  // within which the console may still show what was before a reset
	silentResets    = 3                // at a time
)

// silence watches one firmware from its start on. VM.mu guards it.
type silence struct {
	began time.Time // when the firmware began
	spoke time.Time // when the console last showed something
	tried int       // resets without a word
	timer *time.Timer
}

// begin is called when the firmware starts; hung some time later.
func (s *silence) begin(now time.Time, after time.Duration, hung func()) {
	if s.timer != nil {
		s.timer.Stop()
	}
	s.began, s.timer = now, time.AfterFunc(after, hung)
}

// lasts tells whether the firmware has shown nothing so far and is worth a reset.
func (s *silence) lasts() bool {
	if s.spoke.After(s.began.Add(leftover)) {
		s.tried = 0
		return false
	}
	s.tried++
	return s.tried <= silentResets
}

// listen begins to watch a firmware that starts now. m.mu is held.
func (m *VM) listen() {
	if m.cfg.Firmware == "uefi" && !m.cfg.NoReboot { // there a reset is the end
		m.silence.begin(time.Now(), m.Timeout(firmwareSilence), m.wake)
	}
}

// wake resets a guest whose firmware hangs. The reset is told as every other one is.
func (m *VM) wake() {
	m.mu.Lock()
	reset := !m.ended && m.silence.lasts()
	m.mu.Unlock()
	if !reset {
		return
	}
	m.cfg.Log.Warn("the firmware shows nothing and is reset: it may wait for a processor that never started", "for", m.Timeout(firmwareSilence))
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := m.qmp.run(ctx, "system_reset", nil, nil); err != nil {
		m.cfg.Log.Warn("the reset did not work", "err", err)
	}
}
