package evidence

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"ward/profiles/control"
)

// Proof is what one test of one image showed: what the machine said of itself
// on each boot, and what was seen from outside.
type Proof struct {
	Version  int       `json:"version"`
	Tool     string    `json:"tool"` // version of the tool that ran the test
	Started  time.Time `json:"started"`
	Finished time.Time `json:"finished"`
	Image    string    `json:"image"`
	Digest   string    `json:"image_digest"`
	Where    string    `json:"where"` // what ran the machine: "QEMU, tcg"
	Parts    []Part    `json:"parts"`
}

// Part is one view of the machine: its own report, or findings from outside.
type Part struct {
	Name     string            `json:"name"` // "first boot"
	Report   *Report           `json:"report,omitempty"`
	Findings []control.Finding `json:"findings,omitempty"` // of a part without a report
}

// All returns the part's findings, the report's or its own.
func (p Part) All() []control.Finding {
	if p.Report != nil {
		return p.Report.Findings
	}
	return p.Findings
}

// Verdict is the worst status of the part; without findings it is no pass.
func (p Part) Verdict() control.Status {
	if p.Report != nil {
		return p.Report.Verdict()
	}
	return worst(p.Findings)
}

// Verdict is the worst status of all parts; without parts it is no pass.
func (p *Proof) Verdict() control.Status {
	if len(p.Parts) == 0 {
		return control.Unknown
	}
	verdict := control.Pass
	for _, part := range p.Parts {
		switch v := part.Verdict(); {
		case v == control.Fail:
			return control.Fail
		case v != control.Pass:
			verdict = control.Unknown
		}
	}
	return verdict
}

// Counts is how many findings have each status, indexed by it.
func (p *Proof) Counts() [4]int {
	var n [4]int
	for _, part := range p.Parts {
		for _, f := range part.All() {
			if s := int(f.Status); s >= 0 && s < len(n) {
				n[s]++
			}
		}
	}
	return n
}

// Single makes a proof of one report, for its documents.
func Single(r *Report) *Proof {
	return &Proof{
		Version: ReportVersion, Tool: r.Tool, Started: r.Time, Finished: r.Time, Image: r.Image, Digest: r.Digest,
		Where: r.Host, Parts: []Part{{Name: "machine", Report: r}},
	}
}

// Encode writes the proof as indented JSON.
func (p *Proof) Encode(w io.Writer) error {
	data, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		return fmt.Errorf("proof: %w", err)
	}
	if _, err := w.Write(append(data, '\n')); err != nil {
		return fmt.Errorf("proof: %w", err)
	}
	return nil
}

// maxParts bounds the parts of a proof.
const maxParts = 64

// DecodeProof reads what Encode writes, as strictly as Decode reads a report.
func DecodeProof(in io.Reader) (*Proof, error) {
	p := &Proof{}
	if err := decodeStrict(in, p, func() int { return p.Version }); err != nil {
		return nil, fmt.Errorf("proof: %w", err)
	}
	var faults []error
	if len(p.Parts) > maxParts {
		return nil, fmt.Errorf("proof: %d parts, more than %d", len(p.Parts), maxParts)
	}
	for i, part := range p.Parts {
		err := validateFindings(part.Findings)
		if part.Report != nil {
			err = errors.Join(err, part.Report.validate())
			if len(part.Findings) > 0 {
				err = errors.Join(err, errors.New("has both a report and findings"))
			}
		}
		if part.Name == "" {
			err = errors.Join(err, errors.New("name: missing"))
		}
		if err != nil {
			faults = append(faults, fmt.Errorf("parts[%d]: %w", i, err))
		}
	}
	if err := errors.Join(faults...); err != nil {
		return nil, fmt.Errorf("proof: %w", err)
	}
	return p, nil
}

// decodeStrict reads one JSON value into out: bounded, of our version, without
// unknown fields and with nothing after it.
func decodeStrict(in io.Reader, out any, version func() int) error {
	data, err := io.ReadAll(io.LimitReader(in, maxJSON+1))
	if err != nil {
		return err
	}
	if len(data) > maxJSON {
		return fmt.Errorf("more than %d bytes", maxJSON)
	}
	// The version first: fields of another one are not this one's mistakes.
	var v struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(data, &v); err != nil {
		return err
	}
	if v.Version != ReportVersion {
		return fmt.Errorf("version %d, this program reads %d", v.Version, ReportVersion)
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(out); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows it")
	}
	if got := version(); got != ReportVersion {
		return fmt.Errorf("version %d, this program reads %d", got, ReportVersion) // two spellings of one key
	}
	return nil
}
