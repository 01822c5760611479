package profiles

import (
	"bytes"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"ward/images/strict"
)

//go:embed *.yaml
var embedded embed.FS

// maxExtends is how many profiles may stand on each other.
const maxExtends = 8

// Names lists the embedded profiles.
func Names() []string {
	files, err := embedded.ReadDir(".")
	if err != nil {
		panic(err) // the list is compiled in
	}
	var names []string
	for _, f := range files {
		names = append(names, strings.TrimSuffix(f.Name(), ".yaml"))
	}
	return names
}

// IsFile tells whether a profile or image is named by its file rather than by
// the name of an embedded one: it has a slash or ends in .yaml or .yml.
func IsFile(nameOrPath string) bool {
	ext := filepath.Ext(nameOrPath)
	return strings.ContainsRune(nameOrPath, '/') || ext == ".yaml" || ext == ".yml"
}

// Load reads an embedded profile by its name or a profile by its file, resolves
// what it extends and validates the result. The error has one line for each
// fault; for an unknown name it has the nearest one.
func Load(nameOrPath string) (*Profile, error) { return load(nameOrPath, time.Now()) }

// load is Load on a given day, which decides which waivers are over.
func load(nameOrPath string, now time.Time) (*Profile, error) {
	var p Profile
	d, err := resolve(nameOrPath, nil, &p)
	if err != nil {
		return nil, err
	}
	check{&p, d, now}.all()
	if err := d.Err(); err != nil {
		return nil, err
	}
	return &p, nil
}

// resolve decodes a profile onto p, after those that it extends. The faults of
// an extended profile end it: what stands on them would only repeat them.
func resolve(nameOrPath string, chain []string, p *Profile) (*strict.Document, error) {
	shown, data, err := read(nameOrPath)
	if err != nil {
		return nil, err
	}
	if slices.Contains(chain, shown) {
		return nil, fmt.Errorf("%s: extends: goes in a circle: %s", shown, strings.Join(append(chain, shown), " -> "))
	}
	chain = append(chain, shown)
	if len(chain) > maxExtends {
		return nil, fmt.Errorf("%s: extends: more than %d profiles stand on each other", shown, maxExtends)
	}
	d, err := strict.Parse(shown, data)
	if err != nil {
		return nil, err
	}
	if parent := d.Peek("extends"); parent != "" {
		if IsFile(parent) && !filepath.IsAbs(parent) {
			parent = filepath.Join(filepath.Dir(nameOrPath), parent)
			if !strings.ContainsRune(parent, '/') {
				parent = "./" + parent
			}
		}
		base, err := resolve(parent, chain, p)
		if err == nil {
			err = base.Err()
		}
		if err != nil {
			d.Decode(new(Profile), strict.Partial) // its own faults are said too
			d.Fault("extends", "", "%v", err)
			return nil, d.Err()
		}
		p.Name, p.Description = "", "" // each profile has its own
		d.Decode(p, strict.Partial)
		if !d.Has("name") {
			d.Fault("name", `add a line such as "name: clinic"`, "is missing")
		}
		d.Base = base
		return d, nil
	}
	d.Decode(p, strict.Complete)
	return d, nil
}

// read returns the bytes of a profile and how messages call it.
func read(nameOrPath string) (shown string, data []byte, err error) {
	if !IsFile(nameOrPath) {
		data, err := embedded.ReadFile(path.Join(nameOrPath + ".yaml"))
		if err != nil {
			return "", nil, unknown(nameOrPath)
		}
		return "profile " + nameOrPath, data, nil
	}
	data, err = os.ReadFile(nameOrPath)
	if errors.Is(err, os.ErrNotExist) {
		name := strings.TrimSuffix(filepath.Base(nameOrPath), filepath.Ext(nameOrPath))
		if slices.Contains(Names(), name) {
			return "", nil, fmt.Errorf("profile %s: there is no such file; the one that comes with ward is called %s", nameOrPath, name)
		}
		return "", nil, fmt.Errorf("profile %s: there is no such file", nameOrPath)
	}
	if err != nil {
		return "", nil, fmt.Errorf("profile: %w", err)
	}
	return strict.Shown(nameOrPath), data, nil
}

func unknown(name string) error {
	hint := "known are " + strict.OneOf(Names())
	if near := strict.Nearest(name, Names()); near != "" {
		hint = "did you mean " + near + "?"
	}
	return fmt.Errorf("profile %q is not known; %s (a file is named by a path or ends in .yaml)", name, hint)
}

// Read reads a resolved profile as the machine has it, JSON. It does not judge
// waivers by their date: on a machine a waiver that is over just counts no more.
func Read(file string) (*Profile, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("profile: %w", err)
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	var p Profile
	if err := dec.Decode(&p); err != nil {
		return nil, fmt.Errorf("profile %s: %w", file, err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, fmt.Errorf("profile %s: something follows the profile", file)
	}
	if p.Name == "" {
		return nil, fmt.Errorf("profile %s: has no name", file)
	}
	return &p, nil
}
