package control

import (
	"context"
	"fmt"
	"strings"
)

// What a unit has to be; the words are systemd's own, systemctl(1) is-enabled
// and is-active.
const (
	unitRunning = "enabled, active"    // a service, socket, path or timer
	unitEnabled = "enabled"            // a oneshot service, which is not active afterwards
	unitMasked  = "masked, inactive"   // cannot be started, not even as a dependency
	unitStatic  = "static, active"     // started by another unit
	unitOff     = "disabled, inactive" // installed and not started
)

// unit is a setting that is the state of one systemd unit.
type unit struct {
	unit string // "auditd.service"
	want string // unitRunning and the like
}

func (u unit) Name() string { return u.unit }
func (u unit) Want() string { return u.want }

// Apply enables, disables or masks the unit at bake, where systemctl works on
// the links alone. It changes nothing at first boot: what runs before the apply
// unit does not need it, and what it starts comes after it.
func (u unit) Apply(ctx context.Context, t *Target) error {
	if t.Phase != Bake {
		return nil
	}
	verb := map[string]string{unitRunning: "enable", unitEnabled: "enable", unitMasked: "mask", unitOff: "disable"}[u.want]
	if verb == "" {
		return nil
	}
	_, err := t.Run(ctx, "systemctl", verb, u.unit)
	return err
}

// Check asks systemd for the unit's state.
func (u unit) Check(ctx context.Context, m *Machine) (string, error) {
	out, err := m.Run(ctx, "systemctl", "show", "--property=LoadState,UnitFileState,ActiveState,SubState", u.unit)
	if err != nil {
		return "", err
	}
	p := properties(out)
	if p["LoadState"] == "" || p["ActiveState"] == "" {
		return "", fmt.Errorf("systemctl show %s printed no state: %q", u.unit, out)
	}
	if p["LoadState"] == "not-found" {
		return "not installed", nil
	}
	file := p["UnitFileState"]
	if p["LoadState"] == "masked" {
		file = "masked"
	}
	if u.want == unitEnabled && p["ActiveState"] != "failed" {
		return file, nil
	}
	return file + ", " + p["ActiveState"], nil
}

// properties reads KEY=VALUE lines, as systemctl show and loginctl show print them.
func properties(out string) map[string]string {
	p := make(map[string]string)
	for line := range strings.Lines(out) {
		if key, value, ok := strings.Cut(strings.TrimRight(line, "\n"), "="); ok {
			p[key] = value
		}
	}
	return p
}

// MountUnit is the unit of a mount point: systemd-escape(1) --path --suffix=mount.
func MountUnit(path string) string {
	path = strings.Trim(path, "/")
	if path == "" {
		return "-.mount"
	}
	return EscapeUnit(path) + ".mount"
}

// EscapeUnit escapes a text for a unit's name as systemd-escape(1) does.
func EscapeUnit(text string) string {
	var b strings.Builder
	for i := range len(text) {
		c := text[i]
		switch {
		case c == '/':
			b.WriteByte('-')
		case c == '.' && i > 0, c == '_', c == ':',
			c >= '0' && c <= '9', c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z':
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, `\x%02x`, c)
		}
	}
	return b.String()
}
