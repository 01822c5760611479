package evidence

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"slices"
	"strings"
	"time"

	"ward/profiles/control"
)

//go:embed report.html.tmpl
var reportHTML string

var reportTemplate = template.Must(template.New("report").Funcs(template.FuncMap{
	"when":   func(t time.Time) string { return t.UTC().Format("2 January 2006 15:04:05 UTC") },
	"join":   func(s []string) string { return strings.Join(s, ", ") },
	"blank":  func(s string) string { return orDash(s) },
	"millis": func(ms int64) string { return fmt.Sprintf("%.2f s", float64(ms)/1000) },
	"long":   func(s string) bool { return len(s) > 120 || strings.Contains(s, "\n") },
}).Parse(reportHTML))

// row is one control in the overview.
type row struct {
	ID, Title string
	Refs      []string
	Cells     []cell
}

type cell struct {
	Status control.Status
	Seen   bool   // the part looked at this control
	Detail string // "3 of 4 pass"
}

// HTML writes the proof as one page: no external file, no script; it reads on a
// phone, in the dark, printed and by a screen reader.
func (p *Proof) HTML(w io.Writer) error {
	data := struct {
		*Proof
		Verdict control.Status
		Pass    int
		Fail    int
		Unknown int
		Waived  int
		Total   int
		Took    time.Duration
		Rows    []row
		Waivers []control.Finding
	}{Proof: p, Verdict: p.Verdict(), Took: p.Finished.Sub(p.Started).Round(time.Second), Rows: p.rows()}
	n := p.Counts()
	data.Pass, data.Fail, data.Unknown, data.Waived = n[control.Pass], n[control.Fail], n[control.Unknown], n[control.Waived]
	data.Total = n[0] + n[1] + n[2] + n[3]
	for _, part := range p.Parts {
		for _, f := range part.All() {
			known := func(g control.Finding) bool { return g.Control == f.Control && *g.Waiver == *f.Waiver }
			if f.Waiver != nil && !slices.ContainsFunc(data.Waivers, known) {
				data.Waivers = append(data.Waivers, f)
			}
		}
	}
	if err := reportTemplate.Execute(w, data); err != nil {
		return fmt.Errorf("html: %w", err)
	}
	return nil
}

// rows is the overview: one row a control, one cell a part.
func (p *Proof) rows() []row {
	var rows []row
	at := map[string]int{}
	for i, part := range p.Parts {
		for _, findings := range byControl(part.All()) {
			f := findings[0]
			j, ok := at[f.Control]
			if !ok {
				j = len(rows)
				at[f.Control] = j
				rows = append(rows, row{ID: f.Control, Title: f.Title, Refs: f.Refs, Cells: make([]cell, len(p.Parts))})
			}
			good := 0
			waived := false
			for _, g := range findings {
				if g.Status == control.Pass {
					good++
				}
				waived = waived || g.Status == control.Waived
			}
			c := cell{Status: worst(findings), Seen: true, Detail: fmt.Sprintf("%d of %d", good, len(findings))}
			if c.Status == control.Pass && waived {
				c.Status = control.Waived
			}
			rows[j].Cells[i] = c
		}
	}
	return rows
}

func orDash(s string) string {
	if s == "" {
		return "–"
	}
	return s
}
