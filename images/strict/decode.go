package strict

import (
	"encoding"
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml/ast"
)

// decoder walks the YAML tree and the Go type together. It never stops at a
// fault: a value that does not fit is left as it is.
type decoder struct {
	d    *Document
	need Need
}

var textUnmarshaler = reflect.TypeFor[encoding.TextUnmarshaler]()

func (c *decoder) fault(path, hint, format string, args ...any) {
	c.d.faultHere(c.d, path, hint, fmt.Sprintf(format, args...))
}

// value stores node n in v.
func (c *decoder) value(path string, n ast.Node, v reflect.Value, r rules) {
	t := n.GetToken()
	if values, ok := mapping(n); ok && len(values) > 0 {
		t = values[0].Key.GetToken() // a mapping's own token is its first colon
	}
	if t != nil && t.Position != nil {
		if _, known := c.d.places[path]; !known {
			c.d.places[path] = place{t.Position.Line, t.Position.Column}
		}
	}
	switch n.(type) {
	case *ast.AnchorNode, *ast.AliasNode, *ast.TagNode, *ast.MergeKeyNode:
		c.fault(path, "write the value out", "is a YAML anchor, alias, merge or tag, which are not read")
		return
	case *ast.NullNode:
		c.fault(path, "give it one or remove the line", "has no value")
		return
	}
	if v.Kind() == reflect.Pointer {
		if v.IsNil() {
			v.Set(reflect.New(v.Type().Elem()))
		}
		v = v.Elem()
	}
	if reflect.PointerTo(v.Type()).Implements(textUnmarshaler) && !hasParts(n, v.Kind()) {
		c.text(path, n, v, r)
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		c.structure(path, n, v)
	case reflect.Slice:
		c.list(path, n, v, r)
	case reflect.Map:
		c.table(path, n, v, r)
	default:
		c.scalar(path, n, v, r)
	}
}

// hasParts tells whether a value that can be one word is written out instead.
func hasParts(n ast.Node, k reflect.Kind) bool {
	_, list := n.(*ast.SequenceNode)
	_, table := mapping(n)
	return list && k == reflect.Slice || table && k == reflect.Struct
}

// structure reads a mapping whose keys are the fields of v.
func (c *decoder) structure(path string, n ast.Node, v reflect.Value) {
	values, ok := mapping(n)
	if !ok {
		c.wrongType(path, n, "a mapping (key: value)", false)
		return
	}
	fields, names := fieldsOf(v.Type())
	for _, kv := range c.keys(path, values) {
		field, known := fields[kv.name]
		if !known {
			hint := "known are: " + strings.Join(names, ", ")
			if near := Nearest(kv.name, names); near != "" {
				hint = "did you mean " + near + "?"
			}
			c.fault(kv.path, hint, "is not a known key")
			continue
		}
		c.value(kv.path, kv.node, v.FieldByIndex(field.index), field.rules)
	}
	if c.need != Complete {
		return
	}
	for _, name := range names {
		if !fields[name].optional && !c.d.Has(join(path, name)) {
			c.fault(join(path, name), fields[name].rules.example(name), "is missing")
		}
	}
}

// list reads a sequence; it replaces what v had.
func (c *decoder) list(path string, n ast.Node, v reflect.Value, r rules) {
	seq, ok := n.(*ast.SequenceNode)
	if !ok {
		c.wrongType(path, n, "a list", r.secret)
		return
	}
	items := reflect.MakeSlice(v.Type(), len(seq.Values), len(seq.Values))
	fresh := decoder{d: c.d, need: Complete} // an item has no older value to keep
	for i, item := range seq.Values {
		fresh.value(fmt.Sprintf("%s[%d]", path, i), item, items.Index(i), r.items())
	}
	if what := r.count(len(seq.Values)); what != "" {
		c.fault(path, "", "%s", what)
	}
	v.Set(items)
}

// table reads a mapping with free keys; it adds to what v had.
func (c *decoder) table(path string, n ast.Node, v reflect.Value, r rules) {
	values, ok := mapping(n)
	if !ok {
		c.wrongType(path, n, "a mapping (key: value)", r.secret)
		return
	}
	merged := reflect.MakeMap(v.Type())
	for _, key := range v.MapKeys() {
		merged.SetMapIndex(key, v.MapIndex(key))
	}
	for _, kv := range c.keys(path, values) {
		item := reflect.New(v.Type().Elem()).Elem()
		c.value(kv.path, kv.node, item, r.items())
		merged.SetMapIndex(reflect.ValueOf(kv.name), item)
	}
	v.Set(merged)
}

// text reads a scalar through its type's UnmarshalText.
func (c *decoder) text(path string, n ast.Node, v reflect.Value, r rules) {
	s, ok := text(n)
	if !ok {
		c.wrongType(path, n, "text", r.secret)
		return
	}
	if err := v.Addr().Interface().(encoding.TextUnmarshaler).UnmarshalText([]byte(s)); err != nil {
		c.fault(path, "", "%v", err)
		return
	}
	if what := r.text(s); what != "" {
		c.fault(path, r.hint(n), "%s", what)
	}
}

// scalar reads text, numbers and truth values.
func (c *decoder) scalar(path string, n ast.Node, v reflect.Value, r rules) {
	var what string
	switch v.Kind() {
	case reflect.String:
		s, ok := text(n)
		if !ok {
			c.wrongType(path, n, "text", r.secret)
			return
		}
		v.SetString(s)
		what = r.text(s)
	case reflect.Bool:
		b, ok := n.(*ast.BoolNode)
		if !ok {
			c.wrongType(path, n, "true or false", r.secret)
			return
		}
		v.SetBool(b.Value)
	case reflect.Int, reflect.Int64:
		i, ok := integer(n)
		if !ok || v.OverflowInt(i) {
			c.wrongType(path, n, "a whole number", r.secret)
			return
		}
		v.SetInt(i)
		what = r.number(float64(i))
	case reflect.Float64:
		f, ok := n.(*ast.FloatNode)
		i, whole := integer(n)
		switch {
		case ok:
			v.SetFloat(f.Value)
		case whole:
			v.SetFloat(float64(i))
		default:
			c.wrongType(path, n, "a number", r.secret)
			return
		}
		what = r.number(v.Float())
	default:
		panic(fmt.Sprintf("strict: %s: kind %s is not supported", path, v.Kind()))
	}
	if what != "" {
		c.fault(path, r.hint(n), "%s", what)
	}
}

// wrongType reports a value of another type than wanted.
func (c *decoder) wrongType(path string, n ast.Node, want string, secret bool) {
	got, hint := "is something else", ""
	shown := func(kind string) string {
		raw := n.GetToken().Value
		if secret || len(raw) > 40 || strings.ContainsAny(raw, "\n\r") {
			return "is " + kind
		}
		return fmt.Sprintf("is %s %s", kind, raw)
	}
	switch n.(type) {
	case *ast.IntegerNode, *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		got = shown("the number")
	case *ast.BoolNode:
		got = shown("the truth value")
	case *ast.StringNode:
		got = shown("the text")
	case *ast.LiteralNode:
		got = "is a text of several lines"
	case *ast.SequenceNode:
		got = "is a list"
	case *ast.MappingNode, *ast.MappingValueNode:
		got = "is a mapping"
	}
	switch n.(type) {
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		if want == "text" {
			hint = "put it in quotes"
		}
	case *ast.StringNode, *ast.LiteralNode:
		if want == "a list" {
			hint = "write it as [value] or with a dash on a line of its own"
		}
	}
	c.fault(path, hint, "%s, want %s", got, want)
}

// entry is one key of a mapping.
type entry struct {
	name, path string
	node       ast.Node
}

// keys lists the entries of a mapping, notes their places and reports those
// given twice, of which the first counts.
func (c *decoder) keys(path string, values []*ast.MappingValueNode) []entry {
	var entries []entry
	for _, kv := range values {
		name := keyText(kv.Key)
		p := join(path, name)
		at := place{}
		if t := kv.Key.GetToken(); t != nil && t.Position != nil {
			at = place{t.Position.Line, t.Position.Column}
		}
		if first, twice := c.d.places[p]; twice {
			c.d.faults = append(c.d.faults, &Fault{File: c.d.File, Line: at.line, Column: at.column, Path: p,
				What: fmt.Sprintf("is given twice, first on line %d", first.line), Hint: "remove one"})
			continue
		}
		c.d.places[p] = at
		switch kv.Key.(type) {
		case *ast.StringNode, *ast.IntegerNode, *ast.BoolNode, *ast.NullNode, *ast.FloatNode:
			entries = append(entries, entry{name, p, kv.Value})
		default:
			c.fault(p, "write a plain word", "is a YAML anchor, alias, merge or tag, which are not read")
		}
	}
	return entries
}

func keyText(k ast.MapKeyNode) string {
	if s, ok := k.(*ast.StringNode); ok {
		return s.Value
	}
	return k.GetToken().Value
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

func mapping(n ast.Node) ([]*ast.MappingValueNode, bool) {
	switch n := n.(type) {
	case *ast.MappingNode:
		return n.Values, true
	case *ast.MappingValueNode:
		return []*ast.MappingValueNode{n}, true
	}
	return nil, false
}

func text(n ast.Node) (string, bool) {
	switch n := n.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.LiteralNode:
		return n.Value.Value, true
	}
	return "", false
}

// integer returns a whole number; YAML's 0o17 and 0x1f are numbers, 017 is not
// read because half the readers take it for 15.
func integer(n ast.Node) (int64, bool) {
	i, ok := n.(*ast.IntegerNode)
	if !ok {
		return 0, false
	}
	raw := strings.TrimLeft(i.GetToken().Value, "+-")
	if len(raw) > 1 && raw[0] == '0' && raw[1] >= '0' && raw[1] <= '9' {
		return 0, false
	}
	switch v := i.Value.(type) {
	case int64:
		return v, true
	case uint64:
		return int64(v), v <= math.MaxInt64
	}
	v, err := strconv.ParseInt(fmt.Sprint(i.Value), 10, 64)
	return v, err == nil
}
