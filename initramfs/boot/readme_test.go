package boot

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestReadmeListsEveryParameter reads the source for what it asks of the kernel
// line, and the README for what it says of it.
func TestReadmeListsEveryParameter(t *testing.T) {
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, ok := strings.Cut(string(readme), "## Kernel parameters")
	if !ok {
		t.Fatal("the README has no section on kernel parameters")
	}
	table, _, _ = strings.Cut(table, "\n## ")
	var files []string
	for _, pattern := range []string{"*.go", "../cmd/init/*.go"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, found...)
	}
	asks := regexp.MustCompile(`line\.(?:Get|Has|Last)\(("[^)]*")\)`)
	n := 0
	for _, f := range files {
		if strings.HasSuffix(f, "_test.go") {
			continue
		}
		src, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range asks.FindAllStringSubmatch(string(src), -1) {
			for _, name := range strings.Split(m[1], ",") {
				name = strings.Trim(name, `" `)
				n++
				if !strings.Contains(table, "`"+name+"=") && !strings.Contains(table, "`"+name+"`") {
					t.Errorf("%s asks for %s, which the README does not list", f, name)
				}
			}
		}
	}
	if n < 8 {
		t.Errorf("found only %d parameters in the source: the test looks at the wrong place", n)
	}
}
