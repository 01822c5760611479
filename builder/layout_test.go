package builder_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// arrow says what the packages of a folder may import.
type arrow struct {
	folder string
	may    []string
	why    string
}

// arrows are the folders that each folder may import beside itself, and why it
// may import no other. A path allows what is below it too.
var arrows = []arrow{
	{"images", nil,
		"what a machine is must be readable without knowing what has to hold on it, so that images and profiles change apart"},
	{"profiles", []string{"images", "initramfs/handoff"},
		"the same controls run at bake and on the machine: they may know neither the builder nor how wardctl orders its steps"},
	{"initramfs", nil,
		"init is the first code that runs and holds the keys: what it does not link cannot go wrong in it, and its size is its speed"},
	{"firstboot", []string{"images", "profiles", "initramfs"},
		"wardctl is on every machine: nothing that makes or tests images may be in it"},
	{"builder", []string{"images", "profiles", "initramfs", "firstboot"},
		"a build must not depend on the tests that judge it"},
	{"qemu-tests", []string{"images", "profiles", "initramfs", "firstboot", "builder"},
		"tests may look at everything, and nothing may look at them"},
}

// testOnly are packages that only tests may import: they link what no program needs.
var testOnly = []string{"images/strict/stricttest", "profiles/control/controltest", "builder/registry/registrytest"}

// TestImportsGoOneWay reads the imports of every Go file, those of tests too.
func TestImportsGoOneWay(t *testing.T) {
	looked, seen := 0, map[string]bool{}
	err := filepath.WalkDir("..", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && name != ".." && (strings.HasPrefix(d.Name(), ".") || strings.HasPrefix(d.Name(), "_") || d.Name() == "testdata") {
			return fs.SkipDir // the go command does not look there either
		}
		if !strings.HasSuffix(name, ".go") {
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		pkg := filepath.ToSlash(strings.TrimPrefix(filepath.Dir(name), "../"))
		i := slices.IndexFunc(arrows, func(a arrow) bool { return below(pkg, a.folder) })
		if i < 0 {
			t.Errorf("%s is in no folder of the architecture; a package that fits none is a question of design", name)
			return nil
		}
		seen[arrows[i].folder] = true
		for _, spec := range file.Imports {
			if path, ours := strings.CutPrefix(strings.Trim(spec.Path.Value, `"`), "ward/"); ours {
				looked++
				judge(t, arrows[i], name, pkg, path)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if looked == 0 || len(seen) < len(arrows)-1 {
		t.Errorf("looked at %d imports of the folders %v only", looked, seen)
	}
}

// judge says whether the file of package pkg may import path.
func judge(t *testing.T, a arrow, file, pkg, path string) {
	if !below(path, a.folder) && !slices.ContainsFunc(a.may, func(f string) bool { return below(path, f) }) {
		t.Errorf("%s imports %s: %s", file, path, a.why)
	}
	if !strings.HasSuffix(file, "_test.go") && slices.Contains(testOnly, path) && !slices.Contains(testOnly, pkg) && !below(pkg, "qemu-tests") {
		t.Errorf("%s imports %s, which is for tests only", file, path)
	}
}

// below tells whether a package is a folder or lies in it.
func below(pkg, folder string) bool { return pkg == folder || strings.HasPrefix(pkg, folder+"/") }
