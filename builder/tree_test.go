package builder

import (
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// A tree that an older ward settled is searched for what this one takes for secrets;
// one that was changed is refused, and so is one whose suspects were.
func TestSurveyLower(t *testing.T) {
	dir := t.TempDir()
	put(t, dir, "tree/etc/motd", "welcome\n")
	put(t, dir, "tree/usr/share/example.pem", "-----BEGIN RSA PRIVATE KEY-----\nMIIEowIBAAKCAQEAx\n-----END RSA PRIVATE KEY-----\n")
	if err := settleTree(t.Context(), slog.New(slog.DiscardHandler), SettleSpec{Dir: dir, Epoch: testEpoch, Code: "older"}, func(string) {}); err != nil {
		t.Fatal(err)
	}
	facts, err := readFacts(dir)
	if err != nil || !slices.Equal(facts.Suspects, []string{"/usr/share/example.pem"}) {
		t.Fatalf("the facts are %+v, %v, want the key as a suspect", facts, err)
	}
	for name, c := range map[string]struct {
		code     string
		suspects []string
		found    int
		want     string
	}{
		"the same ward":       {"older", facts.Suspects, 0, ""},
		"another ward":        {"newer", facts.Suspects, 1, ""},
		"changed suspects":    {"older", nil, 0, treeChanged},
		"changed, other ward": {"newer", nil, 1, treeChanged},
	} {
		t.Run(name, func(t *testing.T) {
			b := &bake{BakeSpec: BakeSpec{Installed: dir, Code: c.code}, facts: facts}
			b.facts.Suspects = c.suspects
			got, err := b.surveyLower(t.Context())
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("surveyLower() = %v, want %q", err, c.want)
			}
			found := 0
			for _, e := range got {
				found += len(e.found)
			}
			if found != c.found {
				t.Errorf("%d secrets found, want %d", found, c.found)
			}
		})
	}
	put(t, filepath.Join(dir, treeDir), "etc/motd", "Welcome\n")
	b := &bake{BakeSpec: BakeSpec{Installed: dir, Code: "older"}, facts: facts}
	if _, err := b.surveyLower(t.Context()); err == nil || !strings.Contains(err.Error(), treeChanged+"\nhint: remove "+dir) {
		t.Errorf("surveyLower() of a changed tree = %v, want that it says so", err)
	}
}
