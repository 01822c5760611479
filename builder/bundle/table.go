package bundle

import (
	"bytes"
	"encoding/csv"
	"fmt"
	"strings"
	"time"

	"ward/profiles/evidence"
)

// columns of findings.csv, one row a finding.
var columns = []string{"time", "host", "machine_id", "seen", "image", "image_digest", "tool", "profile", "applied",
	"control", "title", "references", "setting", "status", "want", "got", "error", "waiver_reason", "waiver_owner", "waiver_expires", "report"}

// table writes every finding as CSV (RFC 4180).
func table(b *bytes.Buffer, all []Observation, _ *Manifest) error {
	w := csv.NewWriter(b)
	w.UseCRLF = true
	if err := w.Write(columns); err != nil {
		return err
	}
	for _, o := range all {
		for _, f := range o.All() {
			row := []string{o.Time.UTC().Format(time.RFC3339), o.Host, o.Machine, o.Name, o.Image, o.Digest, o.Tool, o.Profile, o.Applied,
				f.Control, f.Title, strings.Join(f.Refs, "; "), f.Setting, f.Status.String(), f.Want, f.Got, f.Err, "", "", "", o.Source}
			if f.Waiver != nil {
				row[17], row[18], row[19] = f.Waiver.Reason, f.Waiver.Owner, f.Waiver.Expires
			}
			for i := range row {
				row[i] = cell(row[i])
			}
			if err := w.Write(row); err != nil {
				return err
			}
		}
	}
	w.Flush()
	return w.Error()
}

// cell keeps a spreadsheet from running what a machine observed as a formula:
// such a text gets an apostrophe in front (OWASP, CSV injection).
func cell(s string) string {
	if s != "" && strings.ContainsRune("=+-@\t\r", rune(s[0])) {
		return "'" + s
	}
	return s
}

// junit writes all observations as one proof, a suite each.
func junit(b *bytes.Buffer, all []Observation, m *Manifest) error {
	p := &evidence.Proof{Version: evidence.ReportVersion, Tool: m.Tool, Started: m.First, Finished: m.Last, Image: "evidence of " + count(m.Machines, "machine"), Where: "bundle"}
	for _, o := range all {
		part := o.Part
		part.Name = fmt.Sprintf("%s %s %s", o.Who(), o.Time.UTC().Format(time.RFC3339), o.Name)
		p.Parts = append(p.Parts, part)
	}
	return p.JUnit(b)
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
