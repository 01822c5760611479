package evidence

import (
	"encoding/xml"
	"fmt"
	"io"
	"strings"
	"time"

	"ward/profiles/control"
)

// The JUnit dialect that CI systems read: one suite for each control of each
// part, a failure for a fail, an error for an unknown, skipped for a waiver.
type junitSuites struct {
	XMLName  xml.Name     `xml:"testsuites"`
	Name     string       `xml:"name,attr"`
	Tests    int          `xml:"tests,attr"`
	Failures int          `xml:"failures,attr"`
	Errors   int          `xml:"errors,attr"`
	Skipped  int          `xml:"skipped,attr"`
	Suites   []junitSuite `xml:"testsuite"`
}

type junitSuite struct {
	Name      string      `xml:"name,attr"`
	Timestamp string      `xml:"timestamp,attr"`
	Tests     int         `xml:"tests,attr"`
	Failures  int         `xml:"failures,attr"`
	Errors    int         `xml:"errors,attr"`
	Skipped   int         `xml:"skipped,attr"`
	Time      string      `xml:"time,attr"`
	Cases     []junitCase `xml:"testcase"`
}

type junitCase struct {
	Class   string       `xml:"classname,attr"`
	Name    string       `xml:"name,attr"`
	Time    string       `xml:"time,attr"`
	Failure *junitResult `xml:"failure"`
	Error   *junitResult `xml:"error"`
	Skipped *junitResult `xml:"skipped"`
}

type junitResult struct {
	Message string `xml:"message,attr"`
	Text    string `xml:",chardata"`
}

// JUnit writes the proof as JUnit XML.
func (p *Proof) JUnit(w io.Writer) error {
	all := junitSuites{Name: "ward test " + p.Image}
	for _, part := range p.Parts {
		at := p.Started
		if part.Report != nil {
			at = part.Report.Time
			all.add(applied(part, at))
		}
		for _, findings := range byControl(part.All()) {
			all.add(suite(part.Name, at, findings))
		}
		if len(part.All()) == 0 {
			all.add(nothing(part.Name, at))
		}
	}
	if len(p.Parts) == 0 {
		all.add(nothing("test", p.Started))
	}
	data, err := xml.MarshalIndent(all, "", "  ")
	if err != nil {
		return fmt.Errorf("junit: %w", err)
	}
	if _, err := fmt.Fprintf(w, "%s%s\n", xml.Header, data); err != nil {
		return fmt.Errorf("junit: %w", err)
	}
	return nil
}

func (a *junitSuites) add(s junitSuite) {
	for _, c := range s.Cases {
		s.Tests++
		switch {
		case c.Failure != nil:
			s.Failures++
		case c.Error != nil:
			s.Errors++
		case c.Skipped != nil:
			s.Skipped++
		}
	}
	a.Tests += s.Tests
	a.Failures += s.Failures
	a.Errors += s.Errors
	a.Skipped += s.Skipped
	a.Suites = append(a.Suites, s)
}

// applied is the case that says whether the first boot's work was done.
func applied(part Part, at time.Time) junitSuite {
	c := junitCase{Class: part.Name + ".apply", Name: "done", Time: "0.000"}
	if part.Report.Applied != "done" {
		c.Failure = &junitResult{Message: part.Report.Applied}
	}
	return junitSuite{Name: part.Name + ": apply", Timestamp: stamp(at), Time: "0.000", Cases: []junitCase{c}}
}

// nothing is the case of a view that has no findings: never a green report.
func nothing(name string, at time.Time) junitSuite {
	return junitSuite{Name: name, Timestamp: stamp(at), Time: "0.000", Cases: []junitCase{{
		Class: name, Name: "findings", Time: "0.000", Error: &junitResult{Message: "nothing was looked at"},
	}}}
}

func suite(part string, at time.Time, findings []control.Finding) junitSuite {
	s := junitSuite{Name: part + ": " + findings[0].Control, Timestamp: stamp(at)}
	var took int64
	for _, f := range findings {
		took += f.TookMS
		c := junitCase{Class: part + "." + f.Control, Name: f.Setting, Time: seconds(f.TookMS)}
		text := fmt.Sprintf("%s\nwant: %s\ngot:  %s\n%s", f.Title, f.Want, f.Got, strings.Join(f.Refs, ", "))
		switch f.Status {
		case control.Pass:
		case control.Fail:
			c.Failure = &junitResult{fmt.Sprintf("got %q, want %q", f.Got, f.Want), text}
		case control.Waived:
			c.Skipped = &junitResult{Message: fmt.Sprintf("waived by %s until %s: %s", f.Waiver.Owner, f.Waiver.Expires, f.Waiver.Reason)}
		default:
			c.Error = &junitResult{"could not look: " + f.Err, text}
		}
		s.Cases = append(s.Cases, c)
	}
	s.Time = seconds(took)
	return s
}

// byControl groups findings, in the order in which the controls come first.
func byControl(findings []control.Finding) [][]control.Finding {
	var groups [][]control.Finding
	at := map[string]int{}
	for _, f := range findings {
		i, ok := at[f.Control]
		if !ok {
			i = len(groups)
			at[f.Control] = i
			groups = append(groups, nil)
		}
		groups[i] = append(groups[i], f)
	}
	return groups
}

func stamp(t time.Time) string    { return t.UTC().Format("2006-01-02T15:04:05") }
func seconds(millis int64) string { return fmt.Sprintf("%.3f", float64(millis)/1000) }
