package qemutests

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"ward/builder/vm"
)

const runbookDir = "../firstboot/runbooks"

// runbooks names the test that runs each runbook, every command of it.
var runbooks = map[string]func(*testing.T){
	"incident.md":     TestOperateEvidenceRiskIncidentAccessDoctor,
	"risk-report.md":  TestOperateEvidenceRiskIncidentAccessDoctor,
	"evidence.md":     TestOperateEvidenceRiskIncidentAccessDoctor,
	"access.md":       TestOperateEvidenceRiskIncidentAccessDoctor,
	"troubleshoot.md": TestOperateEvidenceRiskIncidentAccessDoctor,
	"backup.md":       TestOperateEvidenceRiskIncidentAccessDoctor,
	"rotate-key.md":   TestRotateReencryptErase,
	"reencrypt.md":    TestRotateReencryptErase,
	"dispose.md":      TestRotateReencryptErase,
}

// block is one fenced block of a runbook.
type block struct {
	where string // "machine" or "host"
	code  int    // that it must end with
	text  string
}

var fence = regexp.MustCompile("(?ms)^```sh (machine|host)(?: exit=(\\d))?\n(.*?)^```$")

func blocks(t *testing.T, name string) []block {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(runbookDir, name))
	if err != nil {
		t.Fatal(err)
	}
	var all []block
	for _, m := range fence.FindAllStringSubmatch(string(text), -1) {
		b := block{where: m[1], text: m[3]}
		fmt.Sscan(m[2], &b.code)
		all = append(all, b)
	}
	if n := strings.Count(string(text), "```"); n != 2*len(all) || n == 0 {
		t.Fatalf("%s: %d fences for %d blocks: each block is marked machine or host", name, n, len(all))
	}
	return all
}

// TestRunbooksAreRun needs no machine: a runbook that no test runs rots.
func TestRunbooksAreRun(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(runbookDir, "*.md"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%s has no runbook: %v", runbookDir, err)
	}
	index, err := os.ReadFile(filepath.Join(runbookDir, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		name := filepath.Base(f)
		if name == "README.md" {
			continue
		}
		if runbooks[name] == nil {
			t.Errorf("%s is run by no test", name)
		}
		if !strings.Contains(string(index), "("+name+")") {
			t.Errorf("README.md does not name %s", name)
		}
		blocks(t, name)
	}
	for name := range runbooks {
		if !slices.ContainsFunc(files, func(f string) bool { return filepath.Base(f) == name }) {
			t.Errorf("there is no %s", name)
		}
	}
}

// book is a runbook that a test works through, block by block.
type book struct {
	t    *testing.T
	name string
	left []block
	vars string // assignments before each block
}

// open opens a runbook; the test fails if it leaves a block of it out.
func openBook(t *testing.T, name string, vars ...string) *book {
	t.Helper()
	b := &book{t: t, name: name, left: blocks(t, name)}
	for _, v := range vars {
		key, value, _ := strings.Cut(v, "=")
		b.vars += key + "='" + strings.ReplaceAll(value, "'", `'\''`) + "'\n"
	}
	t.Cleanup(func() {
		if len(b.left) > 0 && !t.Failed() {
			t.Errorf("%s: %d blocks were not run, the next is:\n%s", name, len(b.left), b.left[0].text)
		}
	})
	return b
}

// next runs the next block, where it belongs, and returns what it printed.
func (b *book) next(m *vm.VM, root *vm.RootShell) string {
	b.t.Helper()
	if len(b.left) == 0 {
		b.t.Fatalf("%s has no further block", b.name)
	}
	now := b.left[0]
	b.left = b.left[1:]
	var out string
	code := 0
	began := time.Now()
	if now.where == "machine" {
		var err error
		if out, code, err = root.Run(within(b.t, m, 5*time.Minute), b.vars+now.text); err != nil {
			b.t.Fatalf("%s: %v\n%s", b.name, err, out)
		}
	} else {
		cmd := exec.CommandContext(b.t.Context(), "sh", "-euc", b.vars+now.text)
		cmd.Env = append(os.Environ(), "PATH="+programs(b.t)+":"+os.Getenv("PATH"))
		raw, err := cmd.CombinedOutput()
		if out = string(raw); err != nil && cmd.ProcessState == nil {
			b.t.Fatal(err)
		}
		code = cmd.ProcessState.ExitCode()
	}
	b.t.Logf("%s, %s, %s:\n%s--> %d\n%s", b.name, now.where, time.Since(began).Round(100*time.Millisecond), now.text, code, out)
	if code != now.code {
		b.t.Fatalf("%s: exit code %d, want %d, of\n%s%s", b.name, code, now.code, now.text, out)
	}
	return out
}

// rest runs what is left of it, and returns what all of that printed.
func (b *book) rest(m *vm.VM, root *vm.RootShell) string {
	b.t.Helper()
	var out strings.Builder
	for len(b.left) > 0 {
		out.WriteString(b.next(m, root))
	}
	return out.String()
}

var built struct {
	once sync.Once
	dir  string
	err  error
}

// programs is a folder with ward in it, for the blocks of the host.
func programs(t *testing.T) string {
	t.Helper()
	built.once.Do(func() {
		if built.dir, built.err = os.MkdirTemp("", "ward-programs-"); built.err != nil {
			return
		}
		cmd := exec.Command("go", "build", "-o", built.dir+"/", "ward/builder/cmd/ward", "ward/firstboot/cmd/wardctl")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			built.err = fmt.Errorf("go build: %w: %s", err, out)
		}
	})
	if built.err != nil {
		t.Fatal(built.err)
	}
	return built.dir
}
