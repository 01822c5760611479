// Package strict reads the YAML that people write for ward. An unknown key, a
// wrong type, a key given twice, a missing field or a value outside its range is
// a fault, and every fault of a file is reported at once with file, line,
// column, path and what to do. Anchors, aliases, merge keys and tags are refused:
// they hide what a file says.
//
// Limits of a value stand in the field's jsonschema tag, so that the schema that
// editors use and the program agree:
//
//	type SSHD struct {
//		MaxAuthTries int `yaml:"max_auth_tries" jsonschema:"minimum=1,maximum=6"`
//	}
//
//	d, err := strict.Parse("clinic.yaml", data)
//	d.Decode(&v, strict.Complete)
//	if v.From == v.To {
//		d.Fault("from", "leave one out", "is the same as to")
//	}
//	err = d.Err()
//
// It is for configuration of a few hundred lines; it is no general YAML decoder.
package strict

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// Limits of a file. A configuration that a person writes stays far below them.
const (
	maxBytes  = 128 << 10
	maxLines  = 10_000 // the parser's time grows with their square
	maxNested = 64     // levels
	maxFaults = 1000   // reported of one file
)

// Fault is one thing that is wrong in a file.
type Fault struct {
	File         string
	Line, Column int    // from 1; 0 when the fault has no place in the file
	Path         string // "controls.sshd.ciphers[2]"; empty for the file as a whole
	What         string // "is 9, want 1 to 6"; never the value of a secret
	Hint         string // what to do; may be empty
}

// Error is one line: "clinic.yaml:7:5: controls.logoff.idle: is 9, want 60 to 3600; hint".
func (f *Fault) Error() string {
	var b strings.Builder
	b.WriteString(f.File)
	if f.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", f.Line, f.Column)
	}
	b.WriteString(": ")
	if f.Path != "" {
		b.WriteString(f.Path + ": ")
	}
	b.WriteString(f.What)
	if f.Hint != "" {
		b.WriteString("; " + f.Hint)
	}
	return b.String()
}

// Need says whether a file must state every field.
type Need int

const (
	Partial  Need = iota + 1 // what is absent keeps the value that it has
	Complete                 // every field without omitempty must be there
)

// place is a position in the file, from 1.
type place struct{ line, column int }

// Document is one parsed file and the faults found in it so far.
type Document struct {
	File string
	// Base is the document whose values this one changes, or nil. A fault in a
	// value that only the base states is reported at its place there.
	Base *Document

	body   ast.Node
	places map[string]place
	faults []*Fault
}

// Parse reads the syntax of one YAML document. The error is a *Fault.
func Parse(file string, data []byte) (*Document, error) {
	d := &Document{File: file, places: map[string]place{}}
	whole := func(format string, args ...any) error {
		return &Fault{File: file, What: fmt.Sprintf(format, args...)}
	}
	if len(data) > maxBytes {
		return nil, whole("has %d bytes, at most %d are read", len(data), maxBytes)
	}
	if n := bytes.Count(data, []byte("\n")); n > maxLines {
		return nil, whole("has %d lines, at most %d are read", n, maxLines)
	}
	data = bytes.TrimPrefix(data, []byte("\ufeff")) // some editors begin a file with it
	if !utf8.Valid(data) {
		return nil, whole("is not UTF-8 text")
	}
	if i := slices.IndexFunc(data, func(b byte) bool { return b < ' ' && b != '\n' && b != '\r' && b != '\t' }); i >= 0 {
		return nil, whole("byte %d is the control character 0x%02x; this is no text file", i, data[i])
	}
	if nested(data) > maxNested {
		return nil, whole("is nested deeper than %d levels", maxNested)
	}
	parsed, err := parse(data)
	if err != nil {
		f := &Fault{File: file, What: "is not YAML: " + err.Error()}
		var at yaml.Error
		if errors.As(err, &at) {
			// GetMessage leaves out the excerpt of the file, which may hold a secret.
			f.What = "is not YAML: " + at.GetMessage()
			if t := at.GetToken(); t != nil && t.Position != nil {
				f.Line, f.Column = t.Position.Line, t.Position.Column
			}
		}
		return nil, f
	}
	var bodies []ast.Node
	for _, doc := range parsed.Docs {
		if doc.Body != nil && doc.Body.Type() != ast.CommentType {
			bodies = append(bodies, doc.Body)
		}
	}
	switch {
	case len(bodies) == 0:
		return nil, whole("is empty")
	case len(bodies) > 1:
		return nil, whole("has %d YAML documents, want one; remove the lines ---", len(bodies))
	}
	d.body = bodies[0]
	return d, nil
}

// parse turns a panic of the YAML parser, which reads foreign bytes, into an error.
func parse(data []byte) (f *ast.File, err error) {
	defer func() {
		if r := recover(); r != nil {
			f, err = nil, fmt.Errorf("the parser gave up: %v", r)
		}
	}()
	return parser.ParseBytes(data, 0, parser.AllowDuplicateMapKey())
}

// nested is an upper bound of how deep a document nests: brackets that are open
// at once, indentation, and "- - -" on one line. The parser recurses, so the
// bound is checked before it runs.
func nested(data []byte) int {
	deepest, open := 0, 0
	var indents []int // of the lines around this one
	for line := range strings.Lines(string(data)) {
		text := strings.TrimLeft(line, " ")
		if strings.TrimSpace(text) == "" {
			continue
		}
		indent := len(line) - len(text)
		for len(indents) > 0 && indents[len(indents)-1] >= indent {
			indents = indents[:len(indents)-1]
		}
		indents = append(indents, indent)
		depth := len(indents)
		for i := 0; i < len(text) && strings.IndexByte(" -?:\t", text[i]) >= 0; i++ {
			if text[i] == '-' || text[i] == '?' || text[i] == ':' {
				depth++
			}
		}
		for i := range len(text) {
			switch text[i] {
			case '[', '{':
				open++
			case ']', '}':
				open = max(open-1, 0)
			}
			deepest = max(deepest, open+depth)
		}
	}
	return deepest
}

// Peek returns the text of a key at the top of the file, "" when it is absent or
// not a text. Decode still says what is wrong with it.
func (d *Document) Peek(key string) string {
	values, _ := mapping(d.body)
	for _, kv := range values {
		if s, ok := kv.Value.(*ast.StringNode); ok && keyText(kv.Key) == key {
			return s.Value
		}
	}
	return ""
}

// Decode stores the document in *v, a struct. Faults are collected; see Err.
func (d *Document) Decode(v any, need Need) {
	c := decoder{d: d, need: need}
	c.value("", d.body, reflect.ValueOf(v).Elem(), rules{})
}

// Has tells whether the file itself, not its base, states path.
func (d *Document) Has(path string) bool {
	_, ok := d.places[path]
	return ok
}

// Faulty tells whether the value at path, or something that it is part of, is
// already known to be wrong or missing, so that nothing can be said from it.
func (d *Document) Faulty(path string) bool {
	return slices.ContainsFunc(d.faults, func(f *Fault) bool {
		rest, ok := strings.CutPrefix(path, f.Path)
		return ok && (rest == "" || rest[0] == '.' || rest[0] == '[')
	})
}

// Fault records that the value at path is wrong, unless that is known already.
// The hint says what to do and may be empty.
func (d *Document) Fault(path, hint, format string, args ...any) {
	if d.Faulty(path) {
		return
	}
	at := d
	for doc := d; doc != nil; doc = doc.Base {
		if doc.Has(path) {
			at = doc
			break
		}
	}
	at.faultHere(d, path, hint, fmt.Sprintf(format, args...))
}

// faultHere records a fault of to with a place in d: that of path or of the
// nearest thing around it.
func (d *Document) faultHere(to *Document, path, hint, what string) {
	f := &Fault{File: d.File, Path: path, What: what, Hint: hint}
	for p := path; ; p = parent(p) {
		if at, ok := d.places[p]; ok {
			f.Line, f.Column = at.line, at.column
			break
		}
		if p == "" {
			break
		}
	}
	to.faults = append(to.faults, f)
}

// parent cuts the last key or index off a path.
func parent(path string) string {
	return path[:max(strings.LastIndexAny(path, ".["), 0)]
}

// Err returns all faults, in the order of the file, one line each, or nil.
func (d *Document) Err() error {
	if len(d.faults) == 0 {
		return nil
	}
	faults := slices.Clone(d.faults)
	slices.SortStableFunc(faults, func(a, b *Fault) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column), cmp.Compare(a.Path, b.Path))
	})
	var errs []error
	seen := map[string]bool{}
	for _, f := range faults {
		if text := f.Error(); !seen[text] {
			seen[text] = true
			errs = append(errs, f)
		}
	}
	if len(errs) > maxFaults {
		errs = append(errs[:maxFaults], &Fault{File: d.File, What: fmt.Sprintf("has %d more faults", len(errs)-maxFaults)})
	}
	return errors.Join(errs...)
}

// Decode is Parse, Decode and Err for a file that needs no further validation.
// The file's name is shown as it is given; see Shown.
func Decode(file string, data []byte, v any, need Need) error {
	d, err := Parse(file, data)
	if err != nil {
		return err
	}
	d.Decode(v, need)
	return d.Err()
}

// Shown is how messages call a file: as the user named it, but clean.
func Shown(file string) string { return filepath.Clean(file) }
