package bundle

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	oscal "github.com/defenseunicorns/go-oscal/src/types/oscal-1-1-3"
	"github.com/google/uuid"

	"ward/profiles/control"
)

const (
	oscalVersion = "1.1.3"
	// namespace is the name space of ward's own properties; a name, not a page.
	namespace = "urn:ward:evidence:1"
	// rule is where the text of the Security Rule's subpart is published.
	rule = "https://www.ecfr.gov/current/title-45/subtitle-A/subchapter-C/part-164/subpart-C"
)

// id derives a UUID from what it names, so that the same reports make the same document.
func id(parts ...string) string {
	return uuid.NewSHA1(uuid.NameSpaceURL, []byte(namespace+"\x00"+strings.Join(parts, "\x00"))).String()
}

// paragraph is a reference as an OSCAL token: "45 CFR 164.312(a)(2)(i)" is
// "cfr45-164.312-a-2-i". References to other texts are ward's own.
func paragraph(ref string) string {
	text, ok := strings.CutPrefix(ref, "45 CFR ")
	if !ok {
		return ""
	}
	text = strings.NewReplacer("(", "-", ")", "").Replace(strings.TrimSpace(text))
	if strings.Trim(text, "0123456789.-abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ") != "" {
		return ""
	}
	return "cfr45-" + text
}

// oneLine makes a text fit for an OSCAL property: not empty, one line, bounded.
func oneLine(s string) string {
	s = strings.Join(strings.FieldsFunc(s, func(r rune) bool {
		return r <= ' ' || r == 0x7f || r == 0x85 || r == 0xa0 || r == 0x2028 || r == 0x2029
	}), " ")
	if r := []rune(s); len(r) > 500 {
		s = string(r[:500]) + "…"
	}
	if s == "" {
		return "(nothing)"
	}
	return s
}

func props(pairs ...string) *[]oscal.Property {
	var list []oscal.Property
	for i := 0; i < len(pairs); i += 2 {
		list = append(list, oscal.Property{Name: pairs[i], Ns: namespace, Value: oneLine(pairs[i+1])})
	}
	return &list
}

func metadata(title string, m *Manifest) oscal.Metadata {
	return oscal.Metadata{Title: title, LastModified: m.Made, Version: m.Made.Format("20060102T150405Z"), OscalVersion: oscalVersion, Remarks: Statement}
}

// assessmentResults writes one OSCAL result for each observation.
func assessmentResults(b *bytes.Buffer, all []Observation, m *Manifest) error {
	plan := id("plan")
	doc := oscal.AssessmentResults{
		UUID: id("assessment-results", m.Made.String(), all[0].Source), Metadata: metadata("Safeguards observed on "+count(m.Machines, "machine"), m),
		ImportAp: oscal.ImportAp{Href: "#" + plan, Remarks: "The checks are those of the tool's version that each observation names; there is no separate plan."},
		BackMatter: &oscal.BackMatter{Resources: &[]oscal.Resource{{
			UUID: plan, Title: "Checks of ward", Description: "The catalogue of controls that is part of the tool.",
		}}},
	}
	for i := range all {
		doc.Results = append(doc.Results, result(&all[i]))
	}
	return encode(b, oscal.OscalModels{AssessmentResults: &doc})
}

// result is one observation of one machine: its findings by control.
func result(o *Observation) oscal.Result {
	subject := id("machine", o.key())
	self := []string{o.Source, o.Name}
	r := oscal.Result{
		UUID: id(append(self, "result")...), Title: oneLine(o.Who() + ", " + o.Name), Start: o.Time.UTC(),
		Description: fmt.Sprintf("What was observed on %s. %s", oneLine(o.Who()), Statement),
		Props:       props("image", o.Image, "image-digest", o.Digest, "tool", o.Tool, "profile", o.Profile, "applied", o.Applied, "report", o.Source),
		LocalDefinitions: &oscal.LocalDefinitions{InventoryItems: &[]oscal.InventoryItem{{
			UUID: subject, Description: "machine " + oneLine(o.Who()), Props: props("machine-id", o.Machine, "host", o.Host),
		}}},
	}
	if o.Applied != "" && o.Applied != "done" {
		r.Remarks = "The machine's configuration was not applied to its end: " + oneLine(o.Applied)
	}
	var observations []oscal.Observation
	var findings []oscal.Finding
	reviewed := map[string]bool{}
	for _, group := range groups(o.All()) {
		var related []oscal.RelatedObservation
		for _, f := range group {
			ob := oscal.Observation{
				UUID: id(append(self, "observation", f.Control, f.Setting)...), Title: oneLine(f.Control + ": " + f.Setting),
				Description: oneLine(f.Title), Methods: []string{"TEST"}, Collected: o.Time.UTC(),
				Subjects: &[]oscal.SubjectReference{{SubjectUuid: subject, Type: "inventory-item"}},
				Props:    props("control", f.Control, "setting", f.Setting, "status", f.Status.String(), "want", f.Want, "got", f.Got),
				Remarks:  f.Err,
			}
			observations = append(observations, ob)
			related = append(related, oscal.RelatedObservation{ObservationUuid: ob.UUID})
		}
		for _, target := range targets(group[0]) {
			reviewed[target] = true
			findings = append(findings, oscal.Finding{
				UUID: id(append(self, "finding", group[0].Control, target)...), Title: oneLine(group[0].Control), Description: oneLine(group[0].Title),
				Target:              oscal.FindingTarget{Type: "objective-id", TargetId: target, Status: status(group)},
				RelatedObservations: &related,
			})
		}
	}
	if len(observations) > 0 {
		r.Observations, r.Findings = &observations, &findings
	}
	var selected []oscal.AssessedControlsSelectControlById
	for _, c := range slices.Sorted(maps.Keys(reviewed)) {
		selected = append(selected, oscal.AssessedControlsSelectControlById{ControlId: c})
	}
	selection := oscal.AssessedControls{IncludeControls: &selected}
	if len(selected) == 0 {
		selection = oscal.AssessedControls{Description: "Nothing could be looked at."}
	}
	r.ReviewedControls = oscal.ReviewedControls{ControlSelections: []oscal.AssessedControls{selection}}
	return r
}

// targets are the paragraphs that a control helps with, or the control itself.
func targets(f control.Finding) []string {
	var list []string
	for _, ref := range f.Refs {
		if p := paragraph(ref); p != "" && !slices.Contains(list, p) {
			list = append(list, p)
		}
	}
	if len(list) == 0 {
		list = []string{"ward-" + plain(f.Control)}
	}
	return list
}

// status is what is said of a control: satisfied only if every finding passed.
// A waiver is a decision, not a pass, and stays visible in the remarks.
func status(group []control.Finding) oscal.ObjectiveStatus {
	switch worst(group) {
	case control.Pass:
		return oscal.ObjectiveStatus{State: "satisfied", Reason: "pass"}
	case control.Fail:
		return oscal.ObjectiveStatus{State: "not-satisfied", Reason: "fail"}
	case control.Waived:
		for _, f := range group {
			if f.Waiver != nil {
				return oscal.ObjectiveStatus{State: "not-satisfied", Reason: "other",
					Remarks: oneLine(fmt.Sprintf("waived until %s by %s: %s", f.Waiver.Expires, f.Waiver.Owner, f.Waiver.Reason))}
			}
		}
	}
	return oscal.ObjectiveStatus{State: "not-satisfied", Reason: "other", Remarks: "It could not be looked at."}
}

// componentDefinition writes which paragraphs the controls that were seen help with.
func componentDefinition(b *bytes.Buffer, all []Observation, m *Manifest) error {
	var requirements []oscal.ImplementedRequirementControlImplementation
	seen := map[string]bool{}
	for i := range all {
		for _, group := range groups(all[i].All()) {
			f := group[0]
			for _, target := range targets(f) {
				if key := f.Control + "\x00" + target; !seen[key] {
					seen[key] = true
					requirements = append(requirements, oscal.ImplementedRequirementControlImplementation{
						UUID: id("requirement", f.Control, target), ControlId: target, Description: oneLine(f.Title), Props: props("control", f.Control),
					})
				}
			}
		}
	}
	component := oscal.DefinedComponent{
		UUID: id("component"), Type: "software", Title: "ward", Description: "The safeguards that ward bakes into an image, applies on first boot and verifies on the running machine.",
	}
	if len(requirements) > 0 {
		component.ControlImplementations = &[]oscal.ControlImplementationSet{{
			UUID: id("implementation"), Source: rule, Description: "Which paragraphs of the HIPAA Security Rule each safeguard helps with.", ImplementedRequirements: requirements,
		}}
	}
	doc := oscal.ComponentDefinition{UUID: id("component-definition", m.Made.Format(time.RFC3339)), Metadata: metadata("Safeguards of ward", m), Components: &[]oscal.DefinedComponent{component}}
	return encode(b, oscal.OscalModels{ComponentDefinition: &doc})
}

func encode(b *bytes.Buffer, doc oscal.OscalModels) error {
	enc := json.NewEncoder(b)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(doc)
}

// groups are the findings by control, in their order.
func groups(findings []control.Finding) [][]control.Finding {
	var list [][]control.Finding
	at := map[string]int{}
	for _, f := range findings {
		i, ok := at[f.Control]
		if !ok {
			i = len(list)
			at[f.Control] = i
			list = append(list, nil)
		}
		list[i] = append(list[i], f)
	}
	return list
}
