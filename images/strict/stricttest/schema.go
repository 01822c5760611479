// Package stricttest makes the JSON Schemas of ward's configuration files from
// their Go types and compares them with the ones that are embedded. Descriptions
// are the fields' doc comments, limits are the tags that package strict
// enforces, so that neither can say something else than the program. It is for
// tests: an installed program has no source to read comments from.
package stricttest

import (
	"bytes"
	"encoding"
	"encoding/json"
	"flag"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/invopop/jsonschema"
	validator "github.com/santhosh-tekuri/jsonschema/v6"

	"ward/images/strict"
)

var update = flag.Bool("update", false, "write the golden files anew")

// Schema describes one kind of file.
type Schema struct {
	Type  any         // a value of the Go type
	Need  strict.Need // Partial: no field is required, but Name
	Title string
	File  string // the golden file, embedded by the package under test
}

// Golden makes the schema and compares it with the golden file, or writes that
// with -update. Doc comments are read from the package in the current folder.
func Golden(t *testing.T, s Schema) {
	t.Helper()
	got := generate(t, s)
	if *update {
		if err := os.WriteFile(s.File, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(s.File)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s does not fit the Go types (%v); run go test with -update and read the difference", s.File, err)
	}
}

// Validate says what a schema finds wrong with a YAML file, nil when nothing.
func Validate(t *testing.T, schemaFile string, text []byte) error {
	t.Helper()
	raw, err := os.ReadFile(schemaFile)
	if err != nil {
		t.Fatal(err)
	}
	schema, err := validator.UnmarshalJSON(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	c := validator.NewCompiler()
	c.AssertFormat()
	if err := c.AddResource("ward.json", schema); err != nil {
		t.Fatal(err)
	}
	compiled, err := c.Compile("ward.json")
	if err != nil {
		t.Fatal(err)
	}
	data, err := yaml.YAMLToJSON(text)
	if err != nil {
		t.Fatal(err)
	}
	value, err := validator.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	return compiled.Validate(value)
}

var textMarshaler = reflect.TypeFor[encoding.TextUnmarshaler]()

func generate(t *testing.T, s Schema) []byte {
	comments := docs(t)
	r := reflector(comments)
	r.RequiredFromJSONSchemaTags = s.Need == strict.Partial
	schema := r.Reflect(s.Type)
	schema.Title = s.Title
	if s.Need == strict.Partial {
		schema.Required = []string{"name"}
		lists(schema, schema.Definitions)
		for _, d := range schema.Definitions {
			lists(d, schema.Definitions)
		}
	}
	tidy(t, schema)
	data, err := json.MarshalIndent(schema, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return append(data, '\n')
}

// reflector reads types with ward's tags and comments.
func reflector(comments map[string]string) *jsonschema.Reflector {
	return &jsonschema.Reflector{
		Anonymous: true, ExpandedStruct: true, FieldNameTag: "yaml",
		LookupComment: func(t reflect.Type, field string) string {
			if field == "" {
				return comments[t.Name()]
			}
			return comments[t.Name()+"."+field]
		},
		// A type that reads itself from text is a text in YAML; a list of that kind
		// may be one word.
		Mapper: func(t reflect.Type) *jsonschema.Schema {
			switch {
			case !reflect.PointerTo(t).Implements(textMarshaler):
				return nil
			case t.Kind() == reflect.Struct:
				return either(t, comments)
			case t.Kind() == reflect.Slice:
				return &jsonschema.Schema{OneOf: []*jsonschema.Schema{
					{Type: "string"}, {Type: "array", Items: &jsonschema.Schema{Type: "string"}, MinItems: ptr[uint64](1)},
				}}
			}
			return &jsonschema.Schema{Type: "string"}
		},
	}
}

// either is a struct that may be one word: its first field, a choice.
func either(t reflect.Type, comments map[string]string) *jsonschema.Schema {
	r := reflector(comments)
	inner := r.Mapper
	r.DoNotReference = true
	r.Mapper = func(u reflect.Type) *jsonschema.Schema {
		if u == t {
			return nil
		}
		return inner(u)
	}
	object := r.ReflectFromType(t)
	object.Version = ""
	word := object.Properties.Oldest().Value
	return &jsonschema.Schema{Description: object.Description, OneOf: []*jsonschema.Schema{{Type: "string", Enum: word.Enum}, object}}
}

// lists makes the items of a struct's lists whole.
func lists(s *jsonschema.Schema, defs jsonschema.Definitions) {
	if s.Properties == nil {
		return
	}
	for p := s.Properties.Oldest(); p != nil; p = p.Next() {
		if p.Value.Items != nil && p.Value.Items.Ref != "" {
			whole(defs[strings.TrimPrefix(p.Value.Items.Ref, "#/$defs/")])
		}
	}
}

// whole makes every property of a list's item required: an item is never partial.
func whole(s *jsonschema.Schema) {
	for p := s.Properties.Oldest(); p != nil; p = p.Next() {
		s.Required = append(s.Required, p.Key)
	}
}

func ptr[T any](v T) *T { return &v }

// tidy reads examples, which a tag gives as YAML, and fails on a property that
// nobody described.
func tidy(t *testing.T, s *jsonschema.Schema) {
	for name, d := range s.Definitions {
		if d.Description == "" {
			t.Errorf("%s has no description; write a comment above its type", name)
		}
		tidy(t, d)
	}
	if s.Properties == nil {
		return
	}
	for p := s.Properties.Oldest(); p != nil; p = p.Next() {
		v := p.Value
		if v.Description == "" && v.Ref == "" {
			t.Errorf("%s has no description; write a comment above its field", p.Key)
		}
		samples := v.Examples
		if v.Items != nil {
			samples, v.Items.Examples = append(samples, v.Items.Examples...), nil
		}
		v.Examples = nil
		for _, sample := range samples {
			var value any
			if err := yaml.Unmarshal([]byte(sample.(string)), &value); err != nil {
				t.Errorf("%s: example %v is no YAML: %v", p.Key, sample, err)
			}
			v.Examples = append(v.Examples, value)
		}
	}
}

var spaces = regexp.MustCompile(`\s+`)

// docs collects the comments of types and fields of the package in the current folder.
func docs(t *testing.T) map[string]string {
	files, err := filepath.Glob("*.go")
	if err != nil || len(files) == 0 {
		t.Fatalf("no Go files here: %v", err)
	}
	found := map[string]string{}
	fset := token.NewFileSet()
	for _, name := range files {
		file, err := parser.ParseFile(fset, name, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range file.Decls {
			gen, ok := decl.(*ast.GenDecl)
			if !ok {
				continue
			}
			for _, spec := range gen.Specs {
				ts, ok := spec.(*ast.TypeSpec)
				if !ok {
					continue
				}
				st, ok := ts.Type.(*ast.StructType)
				if !ok {
					continue
				}
				found[ts.Name.Name] = sentence(gen.Doc)
				for _, f := range st.Fields.List {
					text := sentence(f.Doc)
					if text == "" {
						text = sentence(f.Comment)
					}
					for _, n := range f.Names {
						found[ts.Name.Name+"."+n.Name] = text
					}
				}
			}
		}
	}
	return found
}

// sentence is a comment on one line.
func sentence(c *ast.CommentGroup) string {
	if c == nil {
		return ""
	}
	return strings.TrimSpace(spaces.ReplaceAllString(c.Text(), " "))
}
