package qemutests

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"ward/builder/proof"
	"ward/builder/vm"
	"ward/images/distro"
	"ward/profiles/control"
	"ward/profiles/evidence"
)

// A tamper changes one thing on a running machine. Verify must turn red and name
// the setting; after the undo all of the control must pass again.
type tamper struct {
	control string // ID of the control
	name    string // what is changed; names the subtest: Tamper/sshd/root_may_log_in
	// setting is the name of the setting that must turn red; empty: any of the
	// control's. "*" at its end stands for anything.
	setting string
	do      string // script for /bin/sh, as root; must succeed
	undo    string // script for /bin/sh, as root; must succeed
}

// tampers is every tamper. The files tamper_NAME_test.go add theirs in init:
//
//	func init() { tampers = append(tampers, tamper{control: "sshd", ...}) }
var tampers []tamper

// TestTamper shows each control able to fail, on one machine.
func TestTamper(t *testing.T) {
	t.Parallel()
	image(t)
	if len(tampers) == 0 {
		t.Fatal("there is no tamper")
	}
	m, f, _ := reboot(t, nil)
	root := rootShell(t, m, f)
	groups := map[string][]tamper{}
	var order []string
	for _, c := range tampers {
		if groups[c.control] == nil {
			order = append(order, c.control)
		}
		groups[c.control] = append(groups[c.control], c)
	}
	// The database of files is the machine's as it was made: it also notices what the
	// other tampers leave behind, such as the ranges of useradd.
	slices.SortStableFunc(order, func(a, b string) int { return rank(a) - rank(b) })
	for _, id := range order {
		t.Run(id, func(t *testing.T) {
			// What the undo of one tamper left whole need not be looked at again
			// before the next one.
			whole := false
			for _, c := range groups[id] {
				t.Run(strings.ReplaceAll(c.name, " ", "_"), func(t *testing.T) {
					before := whole
					whole = false // also when the test ends half way
					whole = c.test(t, m, root, before)
				})
			}
		})
	}
}

// rank puts the control that looks at every file first.
func rank(id string) int {
	if id == "integrity" {
		return 0
	}
	return 1
}

// test tampers, looks, undoes and looks again. whole says that the control is
// known to pass before; the answer, that it is known to pass after.
func (c tamper) test(t *testing.T, m *vm.VM, root *vm.RootShell, whole bool) bool {
	if !whole {
		if _, bad := c.look(t, m, root); len(bad) > 0 {
			t.Fatalf("before the tamper: %s", strings.Join(bad, "; "))
		}
	}
	out, code, err := root.Run(within(t, m, time.Minute), c.do)
	if err != nil {
		t.Fatal(err)
	}
	if code != 0 {
		t.Errorf("the tamper itself: exit code %d: %s", code, out)
	} else {
		report, bad := c.look(t, m, root)
		if report.Verdict() == control.Pass {
			t.Errorf("verify passes after: %s", c.do)
		} else if !c.named(report) {
			t.Errorf("verify does not name %q but: %s", c.setting, strings.Join(bad, "; "))
		}
		for _, line := range bad {
			t.Log("red: " + line)
		}
	}
	// Undone also after a failure: the next tamper starts from a whole machine.
	if out, code, err := root.Run(within(t, m, time.Minute), c.undo); err != nil || code != 0 {
		t.Fatalf("undo: exit code %d, %v: %s", code, err, out)
	}
	_, bad := c.look(t, m, root)
	if len(bad) > 0 {
		t.Errorf("after the undo: %s", strings.Join(bad, "; "))
	}
	return len(bad) == 0
}

// look runs verify of the control and returns what does not pass. The exit code
// has to say the same as the report.
func (c tamper) look(t *testing.T, m *vm.VM, root *vm.RootShell) (*evidence.Report, []string) {
	t.Helper()
	out, code, err := root.Run(within(t, m, time.Minute), "wardctl verify --json --control "+c.control+" 2>/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	report, err := evidence.Decode(strings.NewReader(out))
	if err != nil {
		t.Fatalf("wardctl verify: exit code %d, %v: %.500s", code, err, out)
	}
	if want := map[control.Status]int{control.Pass: 0, control.Fail: 1, control.Unknown: 2}[report.Verdict()]; code != want {
		t.Errorf("wardctl verify: exit code %d for %s, want %d", code, report.Verdict(), want)
	}
	var bad []string
	for _, f := range report.Findings {
		if f.Control != c.control {
			t.Errorf("verify --control %s reports on %s", c.control, f.Control)
		}
		if f.Status != control.Pass {
			bad = append(bad, proof.Line(f))
		}
	}
	if len(report.Findings) == 0 {
		t.Fatalf("verify --control %s has no findings", c.control)
	}
	return report, bad
}

// named tells whether the setting that was tampered with is among the red ones.
func (c tamper) named(r *evidence.Report) bool {
	return slices.ContainsFunc(r.Findings, func(f control.Finding) bool {
		prefix, open := strings.CutSuffix(c.setting, "*")
		return (f.Status == control.Fail || f.Status == control.Unknown) &&
			(c.setting == "" || f.Setting == c.setting || open && strings.HasPrefix(f.Setting, prefix))
	})
}

// TestTamperCoversEveryControl needs no machine: a control without a tamper has
// not been shown able to fail.
func TestTamperCoversEveryControl(t *testing.T) {
	i := image(t)
	id, version, ok := strings.Cut(i.Manifest.Image, "-")
	if !ok {
		t.Fatalf("image %q has no release in its name", i.Manifest.Image)
	}
	release, err := distro.Find(id, version)
	if err != nil {
		t.Fatal(err)
	}
	catalogue := control.Catalogue(&i.Profile, release)
	if len(catalogue) == 0 {
		t.Fatal("the catalogue is empty")
	}
	for _, c := range catalogue {
		own := 0
		for _, x := range tampers {
			if x.control != c.ID {
				continue
			}
			own++
			prefix, open := strings.CutSuffix(x.setting, "*")
			known := func(s control.Setting) bool {
				return x.setting == "" || s.Name() == x.setting || open && strings.HasPrefix(s.Name(), prefix)
			}
			if !slices.ContainsFunc(c.Settings, known) {
				t.Errorf("tamper %s/%s: the control has no setting %q", c.ID, x.name, x.setting)
			}
		}
		if own == 0 {
			t.Errorf("control %s has no tamper", c.ID)
		}
	}
	seen := map[string]bool{}
	for _, x := range tampers {
		if !slices.ContainsFunc(catalogue, func(c control.Control) bool { return c.ID == x.control }) {
			t.Errorf("tamper %s/%s: there is no such control", x.control, x.name)
		}
		if key := fmt.Sprintf("%s/%s", x.control, x.name); seen[key] || x.name == "" || x.do == "" || x.undo == "" {
			t.Errorf("tamper %s: twice, or without name, do or undo", key)
		} else {
			seen[key] = true
		}
	}
}
