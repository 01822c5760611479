package evidence

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"ward/profiles/control"
)

// maxJSON bounds a report, in bytes; the largest seen is about 100 KiB.
const maxJSON = 8 << 20

// maxFindings bounds the findings of one report.
const maxFindings = 10_000

// Encode writes the report as one line of JSON.
func (r *Report) Encode(w io.Writer) error {
	line, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("report: %w", err)
	}
	if _, err := w.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("report: %w", err)
	}
	return nil
}

// Decode reads one report. It refuses another version, an unknown field, what
// follows the report, and a report that lacks what makes it evidence.
func Decode(in io.Reader) (*Report, error) {
	r := &Report{}
	if err := decodeStrict(in, r, func() int { return r.Version }); err != nil {
		return nil, fmt.Errorf("report: %w", err)
	}
	if err := r.validate(); err != nil {
		return nil, fmt.Errorf("report: %w", err)
	}
	return r, nil
}

func (r *Report) validate() error {
	var faults []error
	for _, field := range []struct {
		name string
		ok   bool
	}{
		{"tool", r.Tool != ""},
		{"time", !r.Time.IsZero()},
		{"boot_id", r.BootID != ""},
		{"applied", r.Applied != ""},
	} {
		if !field.ok {
			faults = append(faults, fmt.Errorf("%s: missing", field.name))
		}
	}
	return errors.Join(append(faults, validateFindings(r.Findings))...)
}

func validateFindings(findings []control.Finding) error {
	if len(findings) > maxFindings {
		return fmt.Errorf("findings: %d, more than %d", len(findings), maxFindings)
	}
	var faults []error
	seen := map[[2]string]bool{}
	for i, f := range findings {
		id := [2]string{f.Control, f.Setting}
		switch {
		case f.Control == "":
			faults = append(faults, fmt.Errorf("findings[%d].control: missing", i))
		case f.Setting == "":
			faults = append(faults, fmt.Errorf("findings[%d].setting: missing", i))
		case seen[id]:
			faults = append(faults, fmt.Errorf("findings[%d]: %s %s is there twice", i, f.Control, f.Setting))
		case f.Status == control.Waived && f.Waiver == nil:
			faults = append(faults, fmt.Errorf("findings[%d]: %s %s is waived without a waiver", i, f.Control, f.Setting))
		}
		seen[id] = true
	}
	return errors.Join(faults...)
}
