package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
)

// called is a command of ward in a script, up to where its words stop being plain.
var called = regexp.MustCompile(`(?m)(?:^|[ (/])ward ([a-z]+)((?: [^)\n]*)?)`)

// flags are the flags in the rest of a line.
var flags = regexp.MustCompile(`(?:^| )(--[a-z-]+|-[a-z])\b`)

// TestFanOut reads the examples of images/fanout: they are YAML, their scripts are
// shell, they call commands with flags that ward has, and the Job has as many
// completions as there are pairs.
func TestFanOut(t *testing.T) {
	dir := filepath.Join("..", "..", "..", "images", "fanout")
	n := 0
	for _, name := range []string{"ci-matrix.yaml", "kubernetes-job.yaml"} {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		var tree any
		if err := yaml.Unmarshal(text, &tree); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for _, script := range scripts(tree) {
			script = regexp.MustCompile(`\$\{\{.*?\}\}`).ReplaceAllString(script, "x")
			if out, err := exec.Command("sh", "-n", "-c", script).CombinedOutput(); err != nil {
				t.Errorf("%s: sh: %s\n%s", name, out, script)
			}
			for _, call := range called.FindAllStringSubmatch(script, -1) {
				n++
				cmd, _, err := (&program{}).command().Find([]string{call[1]})
				if err != nil || cmd.Name() != call[1] {
					t.Errorf("%s: ward has no command %s", name, call[1])
					continue
				}
				for _, f := range flags.FindAllStringSubmatch(call[2], -1) {
					if long := strings.TrimPrefix(f[1], "--"); long != f[1] && cmd.Flags().Lookup(long) == nil {
						t.Errorf("%s: ward %s has no flag %s", name, call[1], f[1])
					}
				}
			}
		}
	}
	if n < 7 {
		t.Errorf("looked at %d calls of ward only", n)
	}
	var job struct {
		Spec struct {
			CompletionMode string `yaml:"completionMode"`
			Completions    int    `yaml:"completions"`
		} `yaml:"spec"`
	}
	text, err := os.ReadFile(filepath.Join(dir, "kubernetes-job.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(text, &job); err != nil {
		t.Fatal(err)
	}
	all, err := (matrixSpec{}).cells()
	if err != nil {
		t.Fatal(err)
	}
	if job.Spec.CompletionMode != "Indexed" || job.Spec.Completions != len(all) {
		t.Errorf("the Job has %d completions (%s), there are %d pairs", job.Spec.Completions, job.Spec.CompletionMode, len(all))
	}
}

// scripts are the values of run: and the last words of command:.
func scripts(v any) []string {
	var all []string
	switch v := v.(type) {
	case map[string]any:
		for key, value := range v {
			if text, ok := value.(string); ok && key == "run" {
				all = append(all, text)
			}
			if list, ok := value.([]any); ok && key == "command" && len(list) > 0 {
				if text, ok := list[len(list)-1].(string); ok {
					all = append(all, text)
				}
			}
			all = append(all, scripts(value)...)
		}
	case []any:
		for _, e := range v {
			all = append(all, scripts(e)...)
		}
	}
	return all
}
