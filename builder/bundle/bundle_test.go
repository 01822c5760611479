package bundle

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"encoding/xml"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	oscal "github.com/defenseunicorns/go-oscal/src/types/oscal-1-1-3"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"ward/profiles"
	"ward/profiles/control"
	"ward/profiles/evidence"
)

var day = time.Date(2026, 3, 1, 2, 3, 4, 0, time.UTC)

// report is a machine's report whose findings have the given statuses.
func report(host string, at time.Time, statuses ...control.Status) *evidence.Report {
	r := &evidence.Report{Version: evidence.ReportVersion, Tool: "v1.2.3", Time: at, Host: host, Machine: "id-" + host, BootID: "boot-" + at.String(),
		Release: "debian-12", Image: "debian-12", Digest: "00ff", Profile: "hipaa", Applied: "done"}
	kinds := []control.Finding{
		{Control: "sshd", Title: "the SSH server takes keys only", Setting: "permitrootlogin", Refs: []string{"45 CFR 164.312(d)", "NIST 800-53 AC-17"}, Want: "no", Got: "no"},
		{Control: "audit", Title: "the kernel records access", Setting: "rules", Refs: []string{"45 CFR 164.312(b)"}, Want: "-w /etc/passwd -p wa\n-e 2", Got: "<script>alert(1)</script>"},
		{Control: "time", Title: "the clock is right", Setting: "drift", Want: "below 1 s", Got: "=cmd|' /C calc'!A0"},
	}
	for i, s := range statuses {
		f := kinds[i]
		f.Status = s
		if s == control.Unknown {
			f.Err = "auditctl: exit status 1"
		}
		if s == control.Waived {
			f.Waiver = &profiles.Waiver{Control: f.Control, Reason: "no time server in the lab", Owner: "J. Doe", Expires: "2027-01-01"}
		}
		r.Findings = append(r.Findings, f)
	}
	return r
}

func save(t *testing.T, name string, encode func(*bytes.Buffer) error) {
	t.Helper()
	var b bytes.Buffer
	if err := encode(&b); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}

// sample is a folder of reports: db1 gets worse, db2 gets better, and a proof
// with findings from outside.
func sample(t *testing.T) string {
	dir := t.TempDir()
	for name, r := range map[string]*evidence.Report{
		"db1/a.json": report("db1", day, control.Pass, control.Pass, control.Waived),
		"db1/b.json": report("db1", day.AddDate(0, 0, 7), control.Pass, control.Unknown, control.Waived),
		"db2/a.json": report("db2", day, control.Fail, control.Pass, control.Pass),
		"db2/b.json": report("db2", day.AddDate(0, 0, 7), control.Pass, control.Pass, control.Pass),
		"copy.json":  report("db1", day, control.Pass, control.Pass, control.Waived), // the same bytes again
	} {
		save(t, filepath.Join(dir, name), func(b *bytes.Buffer) error { return r.Encode(b) })
	}
	p := &evidence.Proof{Version: evidence.ReportVersion, Tool: "v1.2.3", Started: day, Finished: day.Add(time.Minute), Image: "debian-12", Digest: "00ff", Where: "QEMU, tcg",
		Parts: []evidence.Part{
			{Name: "first boot", Report: report("test", day.Add(time.Hour), control.Pass, control.Pass, control.Pass)},
			{Name: "from outside", Findings: []control.Finding{{Control: "sshd", Title: "the SSH server takes keys only", Setting: "outside: root", Refs: []string{"45 CFR 164.312(d)"}, Status: control.Pass, Want: "refused", Got: "refused"}}},
		}}
	save(t, filepath.Join(dir, "proof.json"), func(b *bytes.Buffer) error { return p.Encode(b) })
	if err := os.WriteFile(filepath.Join(dir, "junit.xml"), []byte("<not read/>"), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

func collect(t *testing.T) (string, *Manifest) {
	t.Helper()
	out := filepath.Join(t.TempDir(), "evidence")
	m, err := Collect([]string{sample(t)}, out, Options{Tool: "v9", Now: day.AddDate(0, 1, 0)})
	if err != nil {
		t.Fatal(err)
	}
	return out, m
}

func TestCollect(t *testing.T) {
	out, m := collect(t)
	if m.Machines != 3 || m.Observations != 6 || m.KeepUntil != "2032-04-01" || !m.First.Equal(day) || !m.Last.Equal(day.AddDate(0, 0, 7)) {
		t.Errorf("manifest = %+v, want 3 machines, 6 observations, kept until 2032-04-01", m)
	}
	reports := 0
	for name := range m.Files {
		if strings.HasPrefix(name, "reports/") {
			reports++
		}
	}
	if reports != 5 {
		t.Errorf("%d reports are in the bundle, want 5: one was there twice", reports)
	}
	if b, err := exec.Command("sh", "-c", "cd "+out+" && sha256sum --strict -c SHA256SUMS").CombinedOutput(); err != nil {
		t.Errorf("sha256sum -c: %v: %s", err, b)
	}
	if back, err := Verify(out, m.Digest()); err != nil || back.Digest() != m.Digest() {
		t.Errorf("Verify() = %v, want nil", err)
	}
}

func TestOverview(t *testing.T) {
	out, _ := collect(t)
	b, err := os.ReadFile(filepath.Join(out, "index.html"))
	if err != nil {
		t.Fatal(err)
	}
	page := string(b)
	for _, bad := range []string{"<script", "http://", "https://", "src=", "<link", "@import", "url(", "compliant"} {
		if strings.Contains(page, bad) {
			t.Errorf("the page holds %q", bad)
		}
	}
	for _, good := range []string{"&lt;script&gt;", `lang="en"`, `scope="row"`, "audit (unknown, was pass)", "sshd (pass, was fail)", "do not state that anybody complies",
		"waived until 2027-01-01 by J. Doe", "45 CFR 164.312(d)", "Keep until", `href="reports/20260301T020304Z-db1-`} {
		if !strings.Contains(page, good) {
			t.Errorf("the page lacks %q", good)
		}
	}
	machine := func(name string) string {
		_, after, _ := strings.Cut(page, `<tr><th scope="row">`+name)
		row, _, _ := strings.Cut(after, "</tr>")
		return row
	}
	for name, want := range map[string]string{"db1": "? unknown", "db2": "✓ pass", "test": "✓ pass"} {
		if row := machine(name); !strings.Contains(row, want) {
			t.Errorf("row of %s is %s, want %s", name, row, want)
		}
	}
}

// TestPartialLookDoesNotHide: what was seen of another part of a machine still counts.
func TestPartialLookDoesNotHide(t *testing.T) {
	r := report("db1", day, control.Pass)
	r.Applied = "accounts: useradd: exit status 1"
	all := []Observation{ofReport("machine", r), {Host: "db1", Machine: "id-db1", Time: day.Add(time.Hour), Part: evidence.Part{Name: "from outside", Findings: r.Findings}}}
	var b bytes.Buffer
	if r := result(&all[0]); r.Remarks != "The machine's configuration was not applied to its end: accounts: useradd: exit status 1" {
		t.Errorf("the OSCAL result remarks %q, want the step that failed", r.Remarks)
	}
	if err := overview(&b, all, &Manifest{}); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(b.String(), `<td data-label="Verdict"><span class="status fail">✗ fail</span></td><td data-label="Last seen">`) {
		t.Errorf("the machine is not shown as failed:\n%s", b.String())
	}
}

func TestCSV(t *testing.T) {
	out, _ := collect(t)
	b, err := os.ReadFile(filepath.Join(out, "findings.csv"))
	if err != nil {
		t.Fatal(err)
	}
	rows, err := csv.NewReader(bytes.NewReader(b)).ReadAll()
	if err != nil || len(rows) != 1+4*3+3+1 || !slices.Equal(rows[0], columns) {
		t.Fatalf("findings.csv has %d rows, %v, want 17", len(rows), err)
	}
	for _, row := range rows[1:] {
		for i, c := range row {
			if c != "" && strings.ContainsRune("=+-@", rune(c[0])) {
				t.Errorf("column %s of %v is a formula", columns[i], row)
			}
		}
	}
	if !slices.ContainsFunc(rows, func(r []string) bool { return r[17] == "no time server in the lab" && r[13] == "waived" }) {
		t.Error("no row has the waiver")
	}
}

func TestJUnit(t *testing.T) {
	out, _ := collect(t)
	b, err := os.ReadFile(filepath.Join(out, "junit.xml"))
	if err != nil {
		t.Fatal(err)
	}
	var suites struct {
		Suites []struct {
			Name string `xml:"name,attr"`
		} `xml:"testsuite"`
	}
	if err := xml.Unmarshal(b, &suites); err != nil || len(suites.Suites) != 5*4+1 || !strings.HasPrefix(suites.Suites[0].Name, "db1 2026-03-01T02:03:04Z") {
		t.Errorf("junit.xml has the suites %+v, %v, want one for each control, and apply, of each report", suites, err)
	}
}

// TestOSCAL validates both documents against NIST's schema, which comes with the
// module of the types.
func TestOSCAL(t *testing.T) {
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/defenseunicorns/go-oscal").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	schema, err := jsonschema.NewCompiler().Compile(filepath.Join(strings.TrimSpace(string(dir)), "src/internal/schemas/oscal_complete_schema-1-1-3.json"))
	if err != nil {
		t.Fatal(err)
	}
	out, _ := collect(t)
	validate := func(data []byte) error {
		value, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
		if err != nil {
			t.Fatal(err)
		}
		return schema.Validate(value)
	}
	var ar, cd []byte
	for name, data := range map[string]*[]byte{"assessment-results.json": &ar, "component-definition.json": &cd} {
		if *data, err = os.ReadFile(filepath.Join(out, name)); err != nil {
			t.Fatal(err)
		}
		if err := validate(*data); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := validate(bytes.Replace(ar, []byte(`"methods"`), []byte(`"ways"`), 1)); err == nil {
		t.Error("the schema accepts a document with a wrong key: it checks nothing")
	}
	var doc oscal.OscalModels
	if err := json.Unmarshal(ar, &doc); err != nil {
		t.Fatal(err)
	}
	states := map[string]string{}
	for _, r := range doc.AssessmentResults.Results {
		for _, f := range *r.Findings {
			states[r.Title+" "+f.Target.TargetId] = f.Target.Status.State + " " + f.Target.Status.Reason
		}
	}
	for key, want := range map[string]string{
		"db2, machine cfr45-164.312-d": "satisfied pass", "db1, machine cfr45-164.312-b": "not-satisfied other",
		"db1, machine ward-time": "not-satisfied other", "test, from outside cfr45-164.312-d": "satisfied pass",
	} {
		if states[key] != want {
			t.Errorf("%s is %q, want %q", key, states[key], want)
		}
	}
}

func TestParagraph(t *testing.T) {
	for in, want := range map[string]string{"45 CFR 164.312(a)(2)(i)": "cfr45-164.312-a-2-i", "NIST 800-53 AC-7": "", "45 CFR 164.312(a) and more": "", "45 CFR 164.306(d)(3)": "cfr45-164.306-d-3"} {
		if got := paragraph(in); got != want {
			t.Errorf("paragraph(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestCollectRefuses(t *testing.T) {
	good := sample(t)
	empty := t.TempDir()
	odd := t.TempDir()
	if err := os.WriteFile(filepath.Join(odd, "x.json"), []byte(`{"name":"x"}`), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(odd, "y.json"), []byte(`{"version":99,"parts":[]}`), 0o644); err != nil {
		t.Fatal(err)
	}
	parent := t.TempDir()
	for _, tt := range []struct {
		name string
		dirs []string
		out  string
		want []string
	}{
		{"no folder", []string{"/nowhere"}, filepath.Join(parent, "a"), []string{"/nowhere: there is no such file or folder"}},
		{"no report", []string{empty}, filepath.Join(parent, "a"), []string{"holds no report (*.json)\nhint: ward test --report"}},
		{"not reports", []string{good, odd}, filepath.Join(parent, "a"), []string{"x.json: report: version 0", "y.json: proof: version 99", "hint: only reports"}},
		{"taken", []string{good}, empty, []string{"exists and is not replaced"}},
		{"no parent", []string{good}, filepath.Join(parent, "no", "a"), []string{"no such file or directory"}},
	} {
		_, err := Collect(tt.dirs, tt.out, Options{Now: day})
		for _, want := range tt.want {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: Collect() = %v, want %s", tt.name, err, want)
			}
		}
	}
	if left, _ := os.ReadDir(parent); len(left) != 0 {
		t.Errorf("%v stays behind, want nothing", left)
	}
}

// TestVerifyFinds: each way to tamper with a bundle is found and named.
func TestVerifyFinds(t *testing.T) {
	edit := func(name, old, new string) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			b, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil || !strings.Contains(string(b), old) {
				t.Fatalf("%s has no %q: %v", name, old, err)
			}
			if err := os.WriteFile(filepath.Join(dir, name), []byte(strings.Replace(string(b), old, new, 1)), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, tt := range []struct {
		name   string
		tamper func(*testing.T, string)
		want   string
	}{
		{"one byte", edit("findings.csv", "fail", "pass"), "findings.csv was changed: its sha256 is"},
		{"missing", func(t *testing.T, dir string) { must(t, os.Remove(filepath.Join(dir, "index.html"))) }, "index.html is missing"},
		{"added", func(t *testing.T, dir string) {
			must(t, os.WriteFile(filepath.Join(dir, "reports", "new.json"), nil, 0o644))
		}, "new.json was added"},
		{"manifest", edit("manifest.json", "2032", "2022"), "manifest.json was changed: its sha256 is"},
		{"no manifest", func(t *testing.T, dir string) { must(t, os.Remove(filepath.Join(dir, "manifest.json"))) }, "is no bundle of evidence"},
		{"swapped for a link", func(t *testing.T, dir string) {
			must(t, os.Remove(filepath.Join(dir, "index.html")))
			must(t, os.Symlink("/etc/hostname", filepath.Join(dir, "index.html")))
		}, "index.html: "},
	} {
		out, m := collect(t)
		tt.tamper(t, out)
		if _, err := Verify(out, m.Digest()); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: Verify() = %v, want %s", tt.name, err, tt.want)
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
