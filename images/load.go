package images

import (
	"embed"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"ward/images/strict"
)

//go:embed *.yaml
var embedded embed.FS

// Names lists the embedded images.
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

// Load reads an embedded image by its name or an image by its file, and
// validates it. A name with a slash or an end .yaml or .yml is a file. The error
// has one line for each fault; for an unknown name it has the nearest one.
func Load(nameOrPath string) (*Image, error) {
	shown, data, err := read(nameOrPath)
	if err != nil {
		return nil, err
	}
	d, err := strict.Parse(shown, data)
	if err != nil {
		return nil, err
	}
	var img Image
	d.Decode(&img, strict.Complete)
	check{&img, d}.all()
	if err := d.Err(); err != nil {
		return nil, err
	}
	return &img, nil
}

func read(nameOrPath string) (shown string, data []byte, err error) {
	ext := filepath.Ext(nameOrPath)
	if strings.ContainsRune(nameOrPath, '/') || ext == ".yaml" || ext == ".yml" {
		data, err := os.ReadFile(nameOrPath)
		if name := strings.TrimSuffix(filepath.Base(nameOrPath), ext); errors.Is(err, os.ErrNotExist) && slices.Contains(Names(), name) {
			return "", nil, fmt.Errorf("image %s: there is no such file; the one that comes with ward is called %s", nameOrPath, name)
		}
		if errors.Is(err, os.ErrNotExist) {
			return "", nil, fmt.Errorf("image %s: there is no such file", nameOrPath)
		}
		if err != nil {
			return "", nil, fmt.Errorf("image: %w", err)
		}
		return strict.Shown(nameOrPath), data, nil
	}
	data, err = embedded.ReadFile(nameOrPath + ".yaml")
	if err != nil {
		hint := "known are " + strict.OneOf(Names())
		if near := strict.Nearest(nameOrPath, Names()); near != "" {
			hint = "did you mean " + near + "?"
		}
		return "", nil, fmt.Errorf("image %q is not known; %s (a file is named by a path or ends in .yaml)", nameOrPath, hint)
	}
	return "image " + nameOrPath, data, nil
}
