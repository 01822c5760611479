package strict

import (
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml/ast"
)

// rules are the limits of one field, from its jsonschema tag. On a list or a
// table, minItems and maxItems are about it, all others about its values.
type rules struct {
	min, max           *float64
	minLength          int
	minItems, maxItems *float64
	enum               []string
	pattern            *regexp.Regexp
	sample             string
	secret             bool // tag strict:"secret": messages never show the value
}

// field is one field of a struct as YAML names it.
type field struct {
	index    []int
	optional bool
	rules    rules
}

// fieldsOf lists the fields of a struct by their YAML name, and the names in order.
func fieldsOf(t reflect.Type) (map[string]field, []string) {
	fields := map[string]field{}
	var names []string
	for f := range t.Fields() {
		tag, ok := f.Tag.Lookup("yaml")
		name, options, _ := strings.Cut(tag, ",")
		if !ok || name == "-" || name == "" {
			continue
		}
		r, err := parseRules(f.Tag.Get("jsonschema"))
		if err != nil {
			panic(fmt.Sprintf("strict: %s.%s: %v", t, f.Name, err))
		}
		r.secret = f.Tag.Get("strict") == "secret"
		fields[name] = field{index: f.Index, optional: strings.Contains(options, "omitempty"), rules: r}
		names = append(names, name)
	}
	return fields, names
}

// parseRules reads the part of jsonschema's tag language that ward uses. A word
// that it does not enforce is an error, so that no schema promises more than the
// program holds.
func parseRules(tag string) (rules, error) {
	var r rules
	for word := range strings.SplitSeq(tag, ",") {
		if word == "" {
			continue
		}
		key, value, _ := strings.Cut(word, "=")
		number, numErr := strconv.ParseFloat(value, 64)
		var err error
		switch key {
		case "minimum":
			r.min, err = &number, numErr
		case "maximum":
			r.max, err = &number, numErr
		case "minItems":
			r.minItems, err = &number, numErr
		case "maxItems":
			r.maxItems, err = &number, numErr
		case "minLength":
			r.minLength, err = int(number), numErr
		case "enum":
			r.enum = append(r.enum, value)
		case "pattern":
			r.pattern, err = regexp.Compile(value)
		case "example":
			r.sample = value
		default:
			err = fmt.Errorf("nothing enforces %q", key)
		}
		if err != nil {
			return r, fmt.Errorf("tag %q: %w", word, err)
		}
	}
	return r, nil
}

// items are the rules of a list's or table's values.
func (r rules) items() rules {
	r.minItems, r.maxItems = nil, nil
	return r
}

// number says what is wrong with f, "" when nothing is.
func (r rules) number(f float64) string {
	if (r.min == nil || f >= *r.min) && (r.max == nil || f <= *r.max) {
		return ""
	}
	return fmt.Sprintf("is %s, want %s", short(f), span(r.min, r.max))
}

// count says what is wrong with a list of n values.
func (r rules) count(n int) string {
	if (r.minItems == nil || n >= int(*r.minItems)) && (r.maxItems == nil || n <= int(*r.maxItems)) {
		return ""
	}
	return fmt.Sprintf("has %d values, want %s", n, span(r.minItems, r.maxItems))
}

func span(lo, hi *float64) string {
	switch {
	case hi == nil:
		return short(*lo) + " or more"
	case lo == nil:
		return short(*hi) + " or less"
	}
	return short(*lo) + " to " + short(*hi)
}

func short(f float64) string { return strconv.FormatFloat(f, 'f', -1, 64) }

// text says what is wrong with s.
func (r rules) text(s string) string {
	shown := "is " + strconv.Quote(s)
	if r.secret || len(s) > 60 {
		shown = "has a value that does not fit"
	}
	switch {
	case r.minLength > 0 && strings.TrimSpace(s) == "":
		return "is empty"
	case utf8.RuneCountInString(s) < r.minLength:
		return fmt.Sprintf("has %d characters, want %d or more", utf8.RuneCountInString(s), r.minLength)
	case len(r.enum) > 0 && !slices.Contains(r.enum, s):
		return shown + ", want " + OneOf(r.enum)
	case r.pattern != nil && !r.pattern.MatchString(s):
		return shown + ", want the form " + r.pattern.String()
	}
	return ""
}

// hint is what to do about a value that the rules refuse.
func (r rules) hint(n ast.Node) string {
	if s, ok := text(n); ok && !slices.Contains(r.enum, s) {
		if near := Nearest(s, r.enum); near != "" {
			return "did you mean " + near + "?"
		}
	}
	if r.sample != "" {
		return "for example " + r.sample
	}
	return ""
}

// example is what to add for a field that is missing.
func (r rules) example(name string) string {
	switch {
	case r.sample != "":
		return fmt.Sprintf("add a line such as %q", name+": "+r.sample)
	case len(r.enum) > 0:
		return fmt.Sprintf("add a line such as %q", name+": "+r.enum[0])
	}
	return fmt.Sprintf("add a line %q", name+": ...")
}

// OneOf lists the choices: "a, b or c".
func OneOf(choices []string) string {
	if len(choices) < 2 {
		return strings.Join(choices, "")
	}
	last := len(choices) - 1
	return strings.Join(choices[:last], ", ") + " or " + choices[last]
}
