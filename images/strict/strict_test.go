package strict

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

type span2 time.Duration

func (s *span2) UnmarshalText(text []byte) error {
	d, err := time.ParseDuration(string(text))
	if err != nil {
		return fmt.Errorf("%q is no duration", text)
	}
	*s = span2(d)
	return nil
}

// words is a list that may be one word.
type words []string

func (w *words) UnmarshalText(text []byte) error { *w = words{string(text)}; return nil }

type inner struct {
	Mode  string   `yaml:"mode" jsonschema:"enum=degrade,enum=halt"`
	Tries int      `yaml:"tries" jsonschema:"minimum=1,maximum=6"`
	Names []string `yaml:"names,omitempty" jsonschema:"minItems=1,pattern=^[a-z]+$"`
}

type outer struct {
	Name   string            `yaml:"name" jsonschema:"minLength=1,example=clinic"`
	On     bool              `yaml:"on,omitempty"`
	Drift  float64           `yaml:"drift,omitempty" jsonschema:"minimum=0"`
	Wait   span2             `yaml:"wait,omitempty"`
	Words  words             `yaml:"words,omitempty"`
	Sysctl map[string]string `yaml:"sysctl,omitempty"`
	Inner  inner             `yaml:"inner,omitempty"`
	More   *inner            `yaml:"more,omitempty"`
	Many   []inner           `yaml:"many,omitempty"`
	Secret string            `yaml:"secret,omitempty" strict:"secret" jsonschema:"minLength=8"`
}

func TestDecode(t *testing.T) {
	const text = `# a comment
name: clinic
on: true
drift: 1
wait: 4h
words: one
sysctl: {a.b: "1"}
inner:
  mode: halt
  tries: 3
  names: [a, b]
more:
  mode: degrade
  tries: 1
many:
  - mode: halt
    tries: 2
secret: |
  line one
  line two
`
	v := outer{Sysctl: map[string]string{"a.b": "0", "c": "2"}}
	if err := Decode("x.yaml", []byte(text), &v, Complete); err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprintf("%+v %+v", v, *v.More)
	for _, want := range []string{"Name:clinic On:true Drift:1 Wait:14400000000000 Words:[one] Sysctl:map[a.b:1 c:2]",
		"Inner:{Mode:halt Tries:3 Names:[a b]}", "Many:[{Mode:halt Tries:2 Names:[]}]", "line one\nline two\n", "{Mode:degrade Tries:1 Names:[]}"} {
		if !strings.Contains(got, want) {
			t.Errorf("Decode() = %s, want %s in it", got, want)
		}
	}
}

// TestEditors: a byte order mark and carriage returns are no fault.
func TestEditors(t *testing.T) {
	var v outer
	if err := Decode("f", []byte("\ufeffname: clinic\r\non: true\r\n"), &v, Complete); err != nil || v.Name != "clinic" || !v.On {
		t.Errorf("Decode() = %+v, %v, want clinic", v, err)
	}
}

func TestFaults(t *testing.T) {
	tests := []struct{ name, text, want string }{
		{"unknown key", "name: a\nsysctle: 1", "f:2:1: sysctle: is not a known key; did you mean sysctl?"},
		{"unknown key, nothing near", "name: a\nzzzzzzzz: 1", "f:2:1: zzzzzzzz: is not a known key; known are: name, on, drift"},
		{"number for text", "name: 12", "f:1:1: name: is the number 12, want text; put it in quotes"},
		{"truth for text", "name: true", "f:1:1: name: is the truth value true, want text; put it in quotes"},
		{"text for number", "name: a\ninner: {mode: halt, tries: three}", "f:2:21: inner.tries: is the text three, want a whole number"},
		{"fraction for whole", "name: a\ninner: {mode: halt, tries: 1.5}", "inner.tries: is the number 1.5, want a whole number"},
		{"octal", "name: a\ninner: {mode: halt, tries: 03}", "inner.tries: is the number 03, want a whole number"},
		{"huge", "name: a\ninner: {mode: halt, tries: 99999999999999999999}", "want a whole number"},
		{"text for truth", "name: a\non: yes", "f:2:1: on: is the text yes, want true or false"},
		{"range", "name: a\ninner: {mode: halt, tries: 9}", "inner.tries: is 9, want 1 to 6"},
		{"below", "name: a\ndrift: -1", "drift: is -1, want 0 or more"},
		{"enum", "name: a\ninner: {mode: hatl, tries: 1}", `inner.mode: is "hatl", want degrade or halt; did you mean halt?`},
		{"pattern", "name: a\ninner: {mode: halt, tries: 1, names: [ok, No]}", `inner.names[1]: is "No", want the form ^[a-z]+$`},
		{"too few", "name: a\ninner: {mode: halt, tries: 1, names: []}", "inner.names: has 0 values, want 1 or more"},
		{"list wanted", "name: a\nmany: {mode: halt}", "many: is a mapping, want a list"},
		{"list wanted, text", "name: a\ninner: {mode: halt, tries: 1, names: a}", "inner.names: is the text a, want a list; write it as [value]"},
		{"mapping wanted", "name: a\ninner: [1]", "inner: is a list, want a mapping (key: value)"},
		{"whole file", "- a", "f:1:1: is a list, want a mapping (key: value)"},
		{"twice", "name: a\nname: b", "f:2:1: name: is given twice, first on line 1; remove one"},
		{"no value", "name:", "f:1:1: name: has no value; give it one or remove the line"},
		{"empty", "name: ''", "name: is empty; for example clinic"},
		{"missing", "on: true", `f:1:1: name: is missing; add a line such as "name: clinic"`},
		{"missing in a list", "name: a\nmany:\n- tries: 1", `f:3:3: many[0].mode: is missing; add a line such as "mode: degrade"`},
		{"missing below", "name: a\nmore:\n  tries: 1", `more.mode: is missing; add a line such as "mode: degrade"`},
		{"duration", "name: a\nwait: soon", `wait: "soon" is no duration`},
		{"duration, number", "name: a\nwait: 4", "wait: is the number 4, want text; put it in quotes"},
		{"anchor", "name: &a x\nwords: *a", "f:1:1: name: is a YAML anchor"},
		{"alias", "name: &a x\nwords: *a", "f:2:1: words: is a YAML anchor, alias"},
		{"tag", "name: !!str x", "name: is a YAML anchor, alias, merge or tag"},
		{"merge key", "name: a\ninner:\n  <<: {mode: halt}\n  tries: 1", "inner.<<: is a YAML anchor, alias, merge or tag"},
		{"table value", "name: a\nsysctl: {a.b: 1}", "sysctl.a.b: is the number 1, want text; put it in quotes"},
		{"syntax", "name: [a", "f:1:7: is not YAML: "},
		{"no text", "name: a\x00b", "f: byte 7 is the control character 0x00"},
		{"nothing", "# only a comment\n", "f: is empty"},
		{"documents", "name: a\n---\nname: b", "f: has 2 YAML documents, want one"},
		{"deep", strings.Repeat("[", 1000), "f: is nested deeper than 64 levels"},
		{"deep dashes", strings.Repeat("- ", 1000), "f: is nested deeper than 64 levels"},
		{"big", strings.Repeat("#", maxBytes+1), "bytes, at most 131072 are read"},
		{"long", strings.Repeat("#\n", maxLines+1), "lines, at most 10000 are read"},
		{"deep indents", func() string {
			var b strings.Builder
			for i := range 100 {
				b.WriteString(strings.Repeat(" ", i) + "a:\n")
			}
			return b.String()
		}(), "f: is nested deeper than 64 levels"},
		{"latin 1", "name: J\xfcrgen", "f: is not UTF-8 text"},
		{"secret", "name: a\nsecret: hunter2", "secret: has 7 characters, want 8 or more"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := Decode("f", []byte(tt.text), &outer{}, Complete)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Decode(%.60q) = %v, want %s", tt.text, err, tt.want)
			}
		})
	}
}

// TestSecretsAreNotShown: a password of the wrong type or form stays out of every message.
func TestSecretsAreNotShown(t *testing.T) {
	for _, text := range []string{"name: a\nsecret: 424242", "name: a\nsecret: [424242]", "name: a\nsecret: 4242", "name: a\nsecret: \"424242\n  x: {"} {
		err := Decode("f", []byte(text), &outer{}, Complete)
		if err == nil || strings.Contains(err.Error(), "4242") {
			t.Errorf("Decode(%q) = %v, want an error without the secret", text, err)
		}
	}
}

// TestEveryFaultAtOnce: one run names them all, in the order of the file.
func TestEveryFaultAtOnce(t *testing.T) {
	err := Decode("f", []byte("nam: a\non: 3\ninner:\n  mode: x\n  tries: 0\n  tries: 1\n"), &outer{}, Complete)
	want := []string{"f:1:1: name: is missing", "f:1:1: nam: is not", "f:2:1: on: is the number 3",
		`f:4:3: inner.mode: is "x"`, "f:5:3: inner.tries: is 0", "f:6:3: inner.tries: is given twice"}
	lines := strings.Split(fmt.Sprint(err), "\n")
	if len(lines) != len(want) {
		t.Fatalf("Decode() reports %d faults, want %d:\n%v", len(lines), len(want), err)
	}
	for _, w := range want {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("Decode() = %v, want %s in it", err, w)
		}
	}
	var f *Fault
	if !errors.As(err, &f) || f.Line != 1 {
		t.Errorf("the first fault is %+v, want one of line 1", f)
	}
}

// TestBase: a fault in a value that only the base states is shown at its place there.
func TestBase(t *testing.T) {
	base, err := Parse("base.yaml", []byte("name: a\ninner:\n  tries: 3\n"))
	if err != nil {
		t.Fatal(err)
	}
	child, err := Parse("child.yaml", []byte("inner:\n  mode: halt\n"))
	if err != nil {
		t.Fatal(err)
	}
	var v outer
	base.Decode(&v, Partial)
	child.Decode(&v, Partial)
	child.Base = base
	if v.Name != "a" || v.Inner.Tries != 3 || v.Inner.Mode != "halt" {
		t.Errorf("child over base = %+v, want both", v)
	}
	child.Fault("inner.mode", "", "is bad")
	child.Fault("inner.tries", "", "is bad")
	child.Fault("inner.names", "", "is bad")
	child.Fault("inner.names", "", "is bad again") // known already
	child.Fault("inner.names[3]", "", "is bad as well")
	for _, want := range []string{"child.yaml:2:3: inner.mode: is bad", "base.yaml:3:3: inner.tries: is bad", "child.yaml:1:1: inner.names: is bad"} {
		if err := child.Err(); err == nil || !strings.Contains(err.Error(), want) || strings.Count(err.Error(), "\n") != 2 {
			t.Errorf("Err() = %v, want three lines, and %s in it", err, want)
		}
	}
}

func TestNearest(t *testing.T) {
	known := []string{"debian-12", "debian-13", "rocky-9", "hipaa"}
	for _, tt := range []struct{ in, want string }{
		{"debian-21", "debian-12"}, {"Debian-13", "debian-13"}, {"debain-12", "debian-12"}, {"hippa", "hipaa"},
		{"rock", "rocky-9"}, {"x", ""}, {"windows-11", ""}, {"", ""},
	} {
		if got := Nearest(tt.in, known); got != tt.want {
			t.Errorf("Nearest(%q) = %q, want %q", tt.in, got, tt.want)
		}
	}
}

// FuzzDecode: no input crashes the decoder, and no accepted input breaks a limit.
func FuzzDecode(f *testing.F) {
	for _, s := range []string{"name: a", "name: &a b\nwords: *a", "inner: {mode: halt, tries: 3}\nname: x", "- - - a", "? a\n: b", "name: |\n  x", "many:\n- tries: 1\n  mode: halt\nname: q", "{name: a}", "name: a\nsysctl: {? b : c}", "<<: {name: a}"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var v outer
		if err := Decode("f", data, &v, Complete); err != nil {
			return
		}
		if v.Name == "" || v.Drift < 0 || v.Secret != "" && len([]rune(v.Secret)) < 8 {
			t.Errorf("Decode(%q) accepted %+v", data, v)
		}
	})
}
