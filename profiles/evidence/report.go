// Package evidence turns findings into documents: JSON for machines, JUnit for
// CI, HTML for people, OSCAL for auditors. It says what was observed, when, on
// which image and by which version of the tool; it helps to show, it never
// claims, that a rule is complied with.
package evidence

import (
	"time"

	"ward/initramfs/handoff"
	"ward/profiles/control"
)

// ReportVersion is the version of Report's JSON; readers refuse another one.
const ReportVersion = 1

// Report is what one verification of one machine saw.
type Report struct {
	Version  int               `json:"version"`
	Tool     string            `json:"tool"` // version of wardctl
	Time     time.Time         `json:"time"`
	Host     string            `json:"host"`
	Machine  string            `json:"machine_id"` // systemd's application-specific id, never the machine-id itself
	BootID   string            `json:"boot_id"`
	Release  string            `json:"release"`
	Image    string            `json:"image"`        // name of the image
	Digest   string            `json:"image_digest"` // digest of the image's inputs, from its manifest
	Profile  string            `json:"profile"`
	Applied  string            `json:"applied"` // "done", or the step of apply that failed and why
	Init     *handoff.Report   `json:"init,omitempty"`
	Findings []control.Finding `json:"findings"`
}

// Verdict is the worst status among the findings, waived ones aside; a report
// without findings, or one whose apply was not done, is not a pass.
func (r *Report) Verdict() control.Status {
	if r.Applied != "done" {
		return control.Fail
	}
	return worst(r.Findings)
}

// worst is the worst status, waived ones aside; no findings are no pass.
func worst(findings []control.Finding) control.Status {
	if len(findings) == 0 {
		return control.Unknown
	}
	verdict := control.Pass
	for _, f := range findings {
		switch f.Status {
		case control.Pass, control.Waived:
		case control.Fail:
			return control.Fail
		default:
			verdict = control.Unknown
		}
	}
	return verdict
}
