package evidence

import (
	"bytes"
	"encoding/xml"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ward/initramfs/handoff"
	"ward/profiles"
	"ward/profiles/control"
)

var update = flag.Bool("update", false, "write the golden files anew")

// sample has every status, a hostile value and a long one.
func sample() *Proof {
	at := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	report := &Report{
		Version: ReportVersion, Tool: "v1.2.3", Time: at, Host: "clinic-1", Machine: "0123abcd", BootID: "b00t-1", Release: "debian-12",
		Image: "debian-12", Digest: "sha256:00ff", Profile: "hipaa", Applied: "done",
		Init: &handoff.Report{Version: 1, Volumes: []handoff.VolumeReport{{Name: "phi-data", State: handoff.StateOpened, KeySource: "device"}}},
		Findings: []control.Finding{
			{Control: "sshd", Title: "the SSH server takes keys only", Setting: "permitrootlogin", Refs: []string{"45 CFR 164.312(d)"}, Status: control.Pass, Want: "no", Got: "no", TookMS: 12},
			{Control: "sshd", Title: "the SSH server takes keys only", Setting: "banner", Refs: []string{"45 CFR 164.312(d)"}, Status: control.Fail, Want: "/etc/issue.net", Got: "<script>alert(1)</script>\x01", TookMS: 7},
			{Control: "audit", Title: "the kernel records access", Setting: "rules", Refs: []string{"45 CFR 164.312(b)"}, Status: control.Unknown, Want: strings.Repeat("-w /etc/passwd -p wa\n", 12), Err: "auditctl: exit status 1", TookMS: 1500},
			{Control: "time", Title: "the clock is right", Setting: "drift", Refs: nil, Status: control.Waived, Want: "below 1 s", Got: "3 s", TookMS: 3,
				Waiver: &profiles.Waiver{Control: "time", Reason: "no NTP in the lab", Owner: "J. Doe", Expires: "2027-01-01"}},
		},
	}
	outside := []control.Finding{
		{Control: "sshd", Title: "the SSH server takes keys only", Setting: "outside: root is refused", Refs: []string{"45 CFR 164.312(d)"}, Status: control.Pass, Want: "refused", Got: "refused", TookMS: 900},
	}
	return &Proof{
		Version: ReportVersion, Tool: "v1.2.3", Started: at, Finished: at.Add(83 * time.Second), Image: "debian-12", Digest: "sha256:00ff", Where: "QEMU, tcg",
		Parts: []Part{{Name: "first boot", Report: report}, {Name: "from outside", Findings: outside}},
	}
}

func TestDocuments(t *testing.T) {
	for _, c := range []struct {
		name  string
		write func(*Proof, io.Writer) error
	}{
		{"report.json", (*Proof).Encode},
		{"junit.xml", (*Proof).JUnit},
		{"report.html", (*Proof).HTML},
	} {
		t.Run(c.name, func(t *testing.T) {
			var b bytes.Buffer
			if err := c.write(sample(), &b); err != nil {
				t.Fatal(err)
			}
			golden := filepath.Join("testdata", c.name)
			if *update {
				if err := os.MkdirAll("testdata", 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(golden, b.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(b.Bytes(), want) {
				t.Errorf("%s differs from %s; run with -update and read the difference\n%s", c.name, golden, b.String())
			}
		})
	}
}

func TestHTMLStandsAlone(t *testing.T) {
	var b bytes.Buffer
	if err := sample().HTML(&b); err != nil {
		t.Fatal(err)
	}
	page := b.String()
	for _, bad := range []string{"<script", "http://", "https://", "src=", "<link", "@import", "url("} {
		if strings.Contains(page, bad) {
			t.Errorf("the page holds %q", bad)
		}
	}
	for _, good := range []string{"&lt;script&gt;", `scope="col"`, `scope="row"`, "<caption>", `lang="en"`, "viewport", "J. Doe", "does not state that anybody complies"} {
		if !strings.Contains(page, good) {
			t.Errorf("the page lacks %q", good)
		}
	}
}

func TestJUnitCounts(t *testing.T) {
	var b bytes.Buffer
	if err := sample().JUnit(&b); err != nil {
		t.Fatal(err)
	}
	var got junitSuites
	if err := xml.Unmarshal(b.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if got.Tests != 6 || got.Failures != 1 || got.Errors != 1 || got.Skipped != 1 {
		t.Errorf("tests %d failures %d errors %d skipped %d, want 6 1 1 1", got.Tests, got.Failures, got.Errors, got.Skipped)
	}
	// A proof that looked at nothing is no green one.
	b.Reset()
	if err := (&Proof{}).JUnit(&b); err != nil || !strings.Contains(b.String(), `errors="1"`) {
		t.Errorf("JUnit of nothing = %v, %s", err, b.String())
	}
}

func TestVerdict(t *testing.T) {
	pass := control.Finding{Control: "a", Setting: "b", Status: control.Pass}
	with := func(s control.Status) control.Finding { f := pass; f.Status = s; return f }
	report := func(applied string, f ...control.Finding) Part {
		return Part{Name: "x", Report: &Report{Applied: applied, Findings: f}}
	}
	for _, c := range []struct {
		name  string
		parts []Part
		want  control.Status
	}{
		{"no part", nil, control.Unknown},
		{"no findings", []Part{{Name: "x"}}, control.Unknown},
		{"a report without findings", []Part{report("done")}, control.Unknown},
		{"pass", []Part{report("done", pass)}, control.Pass},
		{"waived", []Part{report("done", pass, with(control.Waived))}, control.Pass},
		{"apply failed", []Part{report("accounts: useradd: exit status 1", pass)}, control.Fail},
		{"unknown", []Part{report("done", pass, with(control.Unknown))}, control.Unknown},
		{"fail beats unknown", []Part{report("done", with(control.Unknown)), {Findings: []control.Finding{with(control.Fail)}}}, control.Fail},
		{"a part without findings", []Part{report("done", pass), {Name: "outside"}}, control.Unknown},
		{"a status of no name", []Part{{Findings: []control.Finding{with(control.Status(9))}}}, control.Unknown},
	} {
		if got := (&Proof{Parts: c.parts}).Verdict(); got != c.want {
			t.Errorf("%s: Verdict() = %s, want %s", c.name, got, c.want)
		}
	}
}

func TestProofRoundTrip(t *testing.T) {
	var first, second bytes.Buffer
	if err := sample().Encode(&first); err != nil {
		t.Fatal(err)
	}
	text := first.String()
	p, err := DecodeProof(&first)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Encode(&second); err != nil || second.String() != text {
		t.Errorf("a proof read and written again differs: %v", err)
	}
}

func line(t *testing.T, change func(*Report)) string {
	t.Helper()
	r := sample().Parts[0].Report
	change(r)
	var b bytes.Buffer
	if err := r.Encode(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestDecodeRefuses(t *testing.T) {
	good := line(t, func(*Report) {})
	if _, err := Decode(strings.NewReader(good)); err != nil {
		t.Fatalf("Decode of a good report = %v", err)
	}
	for _, c := range []struct{ name, text, want string }{
		{"nothing", "", "unexpected end"},
		{"text", "login: ", "invalid character"},
		{"another version", line(t, func(r *Report) { r.Version = 2 }), "version 2"},
		{"an unknown field", strings.Replace(good, `"tool"`, `"tooth":1,"tool"`, 1), "tooth"},
		{"two reports", good + good, "invalid character"},
		{"a status of no name", strings.Replace(good, `"status":"pass"`, `"status":"fine"`, 1), `"fine" is not a status`},
		{"no boot", line(t, func(r *Report) { r.BootID = "" }), "boot_id: missing"},
		{"no setting", line(t, func(r *Report) { r.Findings[0].Setting = "" }), "findings[0].setting: missing"},
		{"one setting twice", line(t, func(r *Report) { r.Findings[1].Setting = r.Findings[0].Setting }), "there twice"},
		{"waived by nobody", line(t, func(r *Report) { r.Findings[3].Waiver = nil }), "without a waiver"},
		{"too many findings", line(t, func(r *Report) { r.Findings = make([]control.Finding, maxFindings+1) }), "more than 10000"},
		{"too long", `{"version":1,"tool":"` + strings.Repeat("x", maxJSON) + `"}`, "more than"},
	} {
		_, err := Decode(strings.NewReader(c.text))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: Decode() = %v, want %q in it", c.name, err, c.want)
		}
	}
	broken := errors.New("broken pipe")
	if _, err := Decode(io.MultiReader(strings.NewReader("{"), &failing{broken})); !errors.Is(err, broken) {
		t.Errorf("Decode of a broken reader = %v, want its error", err)
	}
}

type failing struct{ err error }

func (f *failing) Read([]byte) (int, error) { return 0, f.err }

func FuzzDecode(f *testing.F) {
	var b bytes.Buffer
	if err := sample().Parts[0].Report.Encode(&b); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Add([]byte(`{"version":1}`))
	f.Add([]byte(`{"version":1,"Version":2,"findings":null}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := Decode(bytes.NewReader(data))
		if err != nil {
			return
		}
		// What is taken is written, read again and judged alike, in every document.
		var b bytes.Buffer
		if err := r.Encode(&b); err != nil {
			t.Fatal(err)
		}
		again, err := Decode(&b)
		if err != nil {
			t.Fatalf("read again: %v", err)
		}
		if r.Verdict() != again.Verdict() {
			t.Errorf("verdict %s, then %s", r.Verdict(), again.Verdict())
		}
		for _, write := range []func(io.Writer) error{Single(r).JUnit, Single(r).HTML, Single(r).Encode} {
			if err := write(io.Discard); err != nil {
				t.Error(err)
			}
		}
	})
}
