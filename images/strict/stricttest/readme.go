package stricttest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Examples writes the YAML blocks of a README into a temporary folder, each under
// the name in its first line ("# clinic.yaml"), and returns their paths by name.
func Examples(t *testing.T, readme string) map[string]string {
	t.Helper()
	text, err := os.ReadFile(readme)
	if err != nil {
		t.Fatal(err)
	}
	dir, found := t.TempDir(), map[string]string{}
	for _, block := range strings.Split(string(text), "```yaml\n")[1:] {
		body, _, closed := strings.Cut(block, "```")
		first, _, _ := strings.Cut(body, "\n")
		name, ok := strings.CutPrefix(first, "# ")
		if !closed || !ok || strings.ContainsAny(name, " /") {
			t.Errorf("%s: a YAML block starts with %q, want a line such as # clinic.yaml", readme, first)
			continue
		}
		found[name] = filepath.Join(dir, name)
		if err := os.WriteFile(found[name], []byte(body), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if len(found) == 0 {
		t.Errorf("%s has no YAML block", readme)
	}
	return found
}
