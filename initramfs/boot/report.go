package boot

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"

	"ward/initramfs/handoff"
)

// writeReport leaves for wardctl what became of each volume.
func (m *machine) writeReport(volumes []handoff.VolumeReport, registers map[int]string) error {
	m.mu.Lock()
	timings := slices.Clone(m.timings)
	m.mu.Unlock()
	data, err := json.MarshalIndent(handoff.Report{Version: handoff.Version, Volumes: volumes, Timings: timings, PCRs: registers}, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(handoff.ReportPath), 0o700); err != nil {
		return err
	}
	return writeFile(handoff.ReportPath, append(data, '\n'), 0o600)
}
