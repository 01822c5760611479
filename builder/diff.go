package builder

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Difference is one thing that two images do not have in common.
type Difference struct {
	Kind string // one of those below
	Name string // of the package, parameter, path or field
	A, B string // what each image has; empty: it has no such thing
}

// What a Difference may be about.
const (
	DiffField   = "field"   // of the manifest or of its inputs
	DiffControl = "control" // a parameter of a control
	DiffPackage = "package" // an installed package
	DiffPath    = "path"    // a file of the root file system
	DiffFile    = "file"    // a file of the output folder
)

// Compare returns everything in which the images of two output folders differ,
// by kind and name. Equal bytes give none.
func Compare(a, b string) ([]Difference, error) {
	var all []Difference
	for _, kind := range []struct {
		name string
		read func(dir string) (map[string]string, error)
	}{
		{DiffField, readFields}, {DiffControl, readParameters}, {DiffPackage, readPackages}, {DiffPath, readListing}, {DiffFile, readSums},
	} {
		inA, errA := kind.read(a)
		inB, errB := kind.read(b)
		if err := errors.Join(errA, errB); err != nil {
			return nil, err
		}
		all = append(all, differences(kind.name, inA, inB)...)
	}
	return all, nil
}

func differences(kind string, a, b map[string]string) []Difference {
	names := slices.Collect(maps.Keys(a))
	for name := range b {
		if _, both := a[name]; !both {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	var all []Difference
	for _, name := range names {
		if a[name] != b[name] {
			all = append(all, Difference{kind, name, a[name], b[name]})
		}
	}
	return all
}

const controlsPrefix = "inputs.profile.controls."

// readFields reads the manifest's fields, less what the other kinds have.
func readFields(dir string) (map[string]string, error) {
	fields, err := readManifestFields(dir)
	maps.DeleteFunc(fields, func(name, _ string) bool {
		return strings.HasPrefix(name, controlsPrefix) || strings.HasPrefix(name, "files.")
	})
	return fields, err
}

// readParameters reads the parameters of the controls: "audit.backlog".
func readParameters(dir string) (map[string]string, error) {
	fields, err := readManifestFields(dir)
	parameters := map[string]string{}
	for name, value := range fields {
		if name, ok := strings.CutPrefix(name, controlsPrefix); ok {
			parameters[name] = value
		}
	}
	return parameters, err
}

func readManifestFields(dir string) (map[string]string, error) {
	if _, err := ReadManifest(dir); err != nil {
		return nil, err
	}
	data, err := os.ReadFile(filepath.Join(dir, manifestFile))
	if err != nil {
		return nil, err
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber() // as it is written
	var tree any
	if err := d.Decode(&tree); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, manifestFile), err)
	}
	fields := map[string]string{}
	flatten(fields, "", tree)
	return fields, nil
}

// flatten names each value of a JSON document by its path. A list of plain
// values is one value: which of them is new says more than that all moved on.
func flatten(into map[string]string, path string, value any) {
	join := func(key string) string {
		if path == "" {
			return key
		}
		return path + "." + key
	}
	switch v := value.(type) {
	case map[string]any:
		for key, value := range v {
			flatten(into, join(key), value)
		}
	case []any:
		plain := !slices.ContainsFunc(v, func(e any) bool {
			switch e.(type) {
			case map[string]any, []any:
				return true
			}
			return false
		})
		if !plain {
			for i, value := range v {
				flatten(into, join(strconv.Itoa(i)), value)
			}
			return
		}
		words := make([]string, len(v))
		for i, e := range v {
			words[i] = fmt.Sprint(e)
		}
		into[path] = "[" + strings.Join(words, " ") + "]"
	case string:
		into[path] = strconv.Quote(v)
	default:
		into[path] = fmt.Sprint(v)
	}
}

// Packages are those that an output folder says are in its image.
func Packages(dir string) ([]Package, error) {
	var list []Package
	err := readJSON(filepath.Join(dir, packagesFile), &list)
	return list, err
}

func readPackages(dir string) (map[string]string, error) {
	list, err := Packages(dir)
	if err != nil {
		return nil, err
	}
	packages := map[string]string{}
	for _, p := range list {
		packages[p.Name+":"+p.Arch] = p.Version
	}
	return packages, nil
}

func readSums(dir string) (map[string]string, error) {
	m, err := ReadManifest(dir)
	if err != nil {
		return nil, err
	}
	sums := map[string]string{}
	for name, f := range m.Files {
		sums[name] = fmt.Sprintf("%d bytes, sha256 %s", f.Size, f.SHA256)
	}
	return sums, nil
}

// readListing reads what writeListing wrote.
func readListing(dir string) (map[string]string, error) {
	name := filepath.Join(dir, listingFile)
	data, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w\nhint: an older ward built this image; build it again", err)
	}
	if err != nil {
		return nil, err
	}
	paths := map[string]string{}
	for line := range strings.Lines(string(data)) {
		line = strings.TrimSuffix(line, "\n")
		if line == "" || line[0] == '#' {
			continue
		}
		path, keywords, ok := strings.Cut(line, " ")
		if !ok || !strings.HasPrefix(path, ".") {
			return nil, fmt.Errorf("%s: cannot read %q", name, line)
		}
		paths["/"+strings.TrimPrefix(strings.TrimPrefix(path, "."), "/")] = keywords
	}
	if len(paths) == 0 {
		return nil, fmt.Errorf("%s: lists no file", name)
	}
	return paths, nil
}
