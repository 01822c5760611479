package bundle

import (
	"bytes"
	_ "embed"
	"fmt"
	"html/template"
	"slices"
	"strings"
	"time"

	"ward/profiles/control"
)

//go:embed overview.html.tmpl
var overviewHTML string

var overviewTemplate = template.Must(template.New("overview").Funcs(template.FuncMap{
	"when": func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") },
	"join": func(s []string) string { return strings.Join(s, ", ") },
}).Parse(overviewHTML))

// machineView is one machine in the overview.
type machineView struct {
	Who, Machine, Image, Digest, Tool, Profile string
	Verdict                                    control.Status
	Latest                                     time.Time
	Past                                       []pointView // every observation, oldest first
	last                                       map[string]control.Status
	own                                        control.Status // verdict of the last report that the machine itself made
}

// pointView is one observation in a machine's trend.
type pointView struct {
	Time                        time.Time
	Name, Source                string
	Verdict                     control.Status
	Pass, Fail, Unknown, Waived int
	Better, Worse               []string // controls that changed since the observation before
}

// controlView is one row: a control and its latest status on every machine.
type controlView struct {
	ID, Title string
	Refs      []string
	Cells     []cellView
}

type cellView struct {
	Who    string
	Seen   bool
	Status control.Status
}

// openView is a finding of a machine's latest look that is not a pass.
type openView struct {
	Who string
	control.Finding
}

// overview writes the page: machines, controls by machine, trend, open findings.
func overview(b *bytes.Buffer, all []Observation, m *Manifest) error {
	var machines []*machineView
	var controls []*controlView
	byKey := map[string]*machineView{}
	latest := map[string]map[string][]control.Finding{} // machine, control
	for i := range all {
		o := &all[i]
		v := byKey[o.key()]
		if v == nil {
			v = &machineView{Who: o.Who(), Machine: o.Machine, last: map[string]control.Status{}, own: control.Pass}
			byKey[o.key()], latest[o.key()] = v, map[string][]control.Finding{}
			machines = append(machines, v)
		}
		v.Image, v.Digest, v.Tool, v.Profile, v.Latest = o.Image, o.Digest, o.Tool, o.Profile, o.Time
		v.Past = append(v.Past, v.point(o))
		if o.Report != nil {
			v.own = o.Verdict()
		}
		for _, group := range groups(o.All()) {
			latest[o.key()][group[0].Control] = group
			if !slices.ContainsFunc(controls, func(c *controlView) bool { return c.ID == group[0].Control }) {
				controls = append(controls, &controlView{ID: group[0].Control, Title: group[0].Title, Refs: group[0].Refs})
			}
		}
	}
	var open []openView
	for key, v := range byKey {
		// The last look may have been at a part of the machine only; what was seen
		// of the other parts before still counts.
		v.Verdict = v.Past[len(v.Past)-1].Verdict
		if v.own != control.Pass && v.Verdict != control.Fail {
			v.Verdict = v.own
		}
		for _, group := range latest[key] {
			if s := worst(group); s != control.Pass && s != control.Waived && v.Verdict != control.Fail {
				v.Verdict = s
			}
			for _, f := range group {
				if f.Status != control.Pass {
					open = append(open, openView{v.Who, f})
				}
			}
		}
	}
	slices.SortFunc(machines, func(a, b *machineView) int { return strings.Compare(a.Who+a.Machine, b.Who+b.Machine) })
	slices.SortFunc(open, func(a, b openView) int {
		return strings.Compare(a.Who+"\x00"+a.Control+"\x00"+a.Setting, b.Who+"\x00"+b.Control+"\x00"+b.Setting)
	})
	for _, c := range controls {
		for _, v := range machines {
			s, seen := v.last[c.ID]
			c.Cells = append(c.Cells, cellView{v.Who, seen, s})
		}
	}
	return overviewTemplate.Execute(b, struct {
		*Manifest
		List     []*machineView
		Controls []*controlView
		Open     []openView
	}{m, machines, controls, open})
}

// point is one observation and what changed in it.
func (v *machineView) point(o *Observation) pointView {
	p := pointView{Time: o.Time, Name: o.Name, Source: o.Source, Verdict: o.Verdict()}
	for _, f := range o.All() {
		switch f.Status {
		case control.Pass:
			p.Pass++
		case control.Fail:
			p.Fail++
		case control.Waived:
			p.Waived++
		default:
			p.Unknown++
		}
	}
	for _, group := range groups(o.All()) {
		now := worst(group)
		if before, seen := v.last[group[0].Control]; seen && before != now {
			change := fmt.Sprintf("%s (%s, was %s)", group[0].Control, now, before)
			if now == control.Pass {
				p.Better = append(p.Better, change)
			} else {
				p.Worse = append(p.Worse, change)
			}
		}
		v.last[group[0].Control] = now
	}
	return p
}
