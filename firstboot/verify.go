package firstboot

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"ward/initramfs/handoff"
	"ward/profiles/control"
	"ward/profiles/evidence"
)

// Verify asks the running system about every control, or about those with the
// given IDs, and never stops early.
func (m *Machine) Verify(ctx context.Context, ids ...string) (*evidence.Report, error) {
	all := control.Catalogue(&m.facts.Profile, m.facts.Release)
	if len(ids) > 0 {
		var names []string
		for _, c := range all {
			names = append(names, c.ID)
		}
		for _, id := range ids {
			if !slices.Contains(names, id) {
				return nil, fmt.Errorf("control %q is not in this machine's profile\nhint: there are: %s", id, strings.Join(names, ", "))
			}
		}
		all = slices.DeleteFunc(all, func(c control.Control) bool { return !slices.Contains(ids, c.ID) })
	}
	config, err := m.machineFile()
	if err != nil {
		return nil, err
	}
	r := m.newReport()
	r.Findings = control.Verify(ctx, all, m.subject(config), m.now())
	if m.log != nil {
		for _, f := range r.Findings {
			m.log.Debug("checked", "control", f.Control, "setting", f.Setting, "status", f.Status, "ms", f.TookMS)
		}
	}
	return r, nil
}

// newReport is a report with everything but findings.
func (m *Machine) newReport() *evidence.Report {
	host, _ := os.Hostname()
	r := &evidence.Report{
		Version: evidence.ReportVersion, Tool: m.facts.Image.Tool, Time: m.now().UTC().Truncate(time.Second),
		Host: host, Machine: m.appID(), BootID: m.line("proc/sys/kernel/random/boot_id"),
		Release: m.facts.Release.Name(), Image: m.facts.Image.Name, Digest: m.facts.Image.Digest,
		Profile: m.facts.Profile.Name, Applied: m.Result().String(),
	}
	// A report that init did not leave, or not readably, is simply not in it: the
	// findings about PHI say what that means.
	r.Init, _ = m.report()
	return r
}

func (m *Machine) line(name string) string {
	b, err := m.root.ReadFile(name)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// appID is an id of this machine that does not give its machine-id away,
// which machine-id(5) asks to keep confidential: HMAC-SHA256 under it.
func (m *Machine) appID() string {
	id := m.line("etc/machine-id")
	if id == "" {
		return ""
	}
	h := hmac.New(sha256.New, []byte(id))
	h.Write([]byte("ward machine id v1"))
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// SaveReport keeps the last report, and sends it to the host when there is a
// virtio-serial port for it.
func (m *Machine) SaveReport(r *evidence.Report) error {
	err := writeJSON(m.root, VerifyPath, r, 0o600)
	b, e := json.Marshal(r)
	if e != nil {
		return errors.Join(err, e)
	}
	if e := m.sendVerdict(append(b, '\n')); e != nil && !errors.Is(e, fs.ErrNotExist) {
		err = errors.Join(err, fmt.Errorf("port %s: %w", handoff.VerdictPort, e))
	}
	return err
}

// verdictWait is how long a host that does not read is waited for.
const verdictWait = time.Minute

// sendVerdict writes one line of JSON.
func (m *Machine) sendVerdict(line []byte) error {
	// O_NONBLOCK: nobody may be at the other end, and then a write would hang.
	f, err := os.OpenFile(m.root.Name()+"/dev/virtio-ports/"+handoff.VerdictPort, os.O_WRONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	if err := f.SetWriteDeadline(time.Now().Add(verdictWait)); err != nil {
		return errors.Join(err, f.Close())
	}
	_, err = f.Write(line)
	return errors.Join(err, f.Close())
}

// LastReport is what the last verification saw; nil when there was none.
func (m *Machine) LastReport() (*evidence.Report, error) {
	b, err := m.root.ReadFile(VerifyPath)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	var r evidence.Report
	return &r, decodeStrict(VerifyPath, b, &r)
}

// Volumes is what became of each PHI volume on this boot.
func (m *Machine) Volumes() ([]VolumeState, error) {
	b, err := m.root.ReadFile(volumePath)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	var s []VolumeState
	return s, decodeStrict(volumePath, b, &s)
}
