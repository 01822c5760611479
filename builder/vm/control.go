package vm

import (
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// Reset resets the guest as the button does, without warning it.
func (m *VM) Reset(ctx context.Context) error {
	seen := m.Resets()
	if err := m.qmp.run(ctx, "system_reset", nil, nil); err != nil {
		return err
	}
	if err := m.WaitReset(ctx, seen); err != nil {
		return err
	}
	m.update(func() { m.console.fault = "" })
	return nil
}

// PowerDown presses the ACPI power button and waits until the guest has ended.
func (m *VM) PowerDown(ctx context.Context) error {
	if err := m.qmp.run(ctx, "system_powerdown", nil, nil); err != nil {
		return err
	}
	return m.Wait(ctx)
}

// Snapshot saves memory and disk under a name in the overlay.
func (m *VM) Snapshot(ctx context.Context, name string) error { return m.silent(ctx, "savevm "+name) }

// Restore takes the machine back to a snapshot. Network connections do not survive it.
func (m *VM) Restore(ctx context.Context, name string) error {
	if err := m.silent(ctx, "loadvm "+name); err != nil {
		return err
	}
	m.update(func() { m.console.fault = ""; m.port0.reset() })
	return nil
}

// silent runs a command of the human monitor that prints something only when it is wrong.
func (m *VM) silent(ctx context.Context, line string) error {
	out, err := m.human(ctx, line)
	if err != nil {
		return err
	}
	if s := strings.TrimSpace(out); s != "" {
		return fmt.Errorf("%s: %s", line, s)
	}
	return nil
}

// forwarded finds the port that slirp took for the guest's port 22.
func (m *VM) forwarded(ctx context.Context) (int, error) {
	out, err := m.human(ctx, "info usernet")
	if err != nil {
		return 0, err
	}
	return hostPort(out, 22)
}

// usernet matches "TCP[HOST_FORWARD]  13       127.0.0.1 45123       10.0.2.15    22     0     0".
var usernet = regexp.MustCompile(`TCP\[HOST_FORWARD\]\s+\d+\s+\S+\s+(\d+)\s+\S+\s+(\d+)\s`)

func hostPort(info string, guest int) (int, error) {
	for _, match := range usernet.FindAllStringSubmatch(info, -1) {
		if match[2] != strconv.Itoa(guest) {
			continue
		}
		port, err := strconv.Atoi(match[1])
		if err != nil || port <= 0 || port > 65535 {
			return 0, fmt.Errorf("info usernet: %q is not a port", match[1])
		}
		return port, nil
	}
	return 0, fmt.Errorf("info usernet: no forward to port %d in %q", guest, info)
}

// event takes what QEMU reports of itself.
func (m *VM) event(name string, data json.RawMessage) {
	switch name {
	case "RESET":
		m.update(func() {
			m.resets++
			m.listen()
			m.port0.reset()
		})
	case "SHUTDOWN":
		var d struct {
			Reason string `json:"reason"`
		}
		if json.Unmarshal(data, &d) == nil {
			m.update(func() { m.reason = d.Reason })
		}
	}
}
