package images

import (
	"errors"
	"fmt"
	"net/url"
	"path"
	"slices"
	"strings"
)

// Repository is a signed repository beside the distribution's own.
type Repository struct {
	// Its name; the machine's files for it are called so.
	Name string `yaml:"name" json:"name" jsonschema:"pattern=^[a-z0-9][a-z0-9-]*$,example=postgresql"`
	// Where it is.
	URL string `yaml:"url" json:"url" jsonschema:"minLength=1,example=https://packages.example.org/debian"`
	// Its suite, the folder below dists.
	Suite string `yaml:"suite" json:"suite" jsonschema:"pattern=^[.A-Za-z0-9][A-Za-z0-9+._/-]*$,example=bookworm"`
	// Its components; none where the suite ends with a slash and has none.
	Components []string `yaml:"components,omitempty" json:"components,omitempty" jsonschema:"pattern=^[A-Za-z0-9][A-Za-z0-9+._/-]*$,example=[main]"`
	// The file on this host with the keys that it is signed with, or
	Keyring string `yaml:"keyring,omitempty" json:"keyring,omitempty" jsonschema:"example=/etc/keys/packages.gpg"`
	// the public key itself, armored.
	Key string `yaml:"key,omitempty" json:"key,omitempty"`
	// How its packages rank beside the distribution's, which have 500
	// (apt_preferences(5)); below 100 they are installed only where nobody else has one.
	Priority int `yaml:"priority,omitempty" json:"priority,omitempty" jsonschema:"minimum=1,maximum=1000"`
	// The repository as it was at this time (UTC), served below URL/TIME.
	Snapshot string `yaml:"snapshot,omitempty" json:"snapshot,omitempty" jsonschema:"pattern=^[0-9]{8}T[0-9]{6}Z$,example=20260101T000000Z"`
}

// SetMirrors puts other mirrors, and where it is not empty another keyring, into
// the place of the file's; they are checked as those of a file are.
func (i *Image) SetMirrors(mirrors []string, keyring string) error {
	var faults []error
	if len(mirrors) > 0 {
		i.Mirrors, i.SecurityMirror, i.Snapshot = mirrors, "", ""
	}
	if keyring != "" {
		i.Keyring = keyring
	}
	for _, f := range i.mirrorFaults() {
		if f.hint != "" {
			f.what += "; " + f.hint
		}
		faults = append(faults, fmt.Errorf("%s: %s", f.at, f.what))
	}
	return errors.Join(faults...)
}

// mirrorFault is what is wrong with one value.
type mirrorFault struct{ at, what, hint string }

func (c check) mirrors() {
	for _, f := range c.img.mirrorFaults() {
		c.d.Fault(f.at, f.hint, "%s", f.what)
	}
}

func (i *Image) mirrorFaults() (faults []mirrorFault) {
	plain := 0
	for n, m := range i.Mirrors {
		at := fmt.Sprintf("mirrors[%d]", n)
		if IsSourceLine(m) {
			faults = append(faults, lineFaults(at, m)...)
			continue
		}
		plain++
		faults = append(faults, urlFaults(at, m)...)
	}
	faults = append(faults, keyringFaults("keyring", i.Keyring)...)
	_, base := i.StartsFrom()
	faults = append(faults, keyringFaults("base", base)...)
	for _, of := range []struct{ at, value string }{{"security_mirror", i.SecurityMirror}, {"snapshot", i.Snapshot}} {
		if of.value != "" && plain == 0 {
			faults = append(faults, mirrorFault{of.at, "goes with mirrors that are named by URL, and there is none", "add one to mirrors, or remove the line"})
		}
	}
	if i.SecurityMirror != "" {
		faults = append(faults, urlFaults("security_mirror", i.SecurityMirror)...)
	}
	for n, r := range i.Repositories {
		faults = append(faults, r.faults(fmt.Sprintf("repositories[%d]", n))...)
		if slices.IndexFunc(i.Repositories, func(o Repository) bool { return o.Name == r.Name }) < n {
			faults = append(faults, mirrorFault{fmt.Sprintf("repositories[%d].name", n), fmt.Sprintf("is %q again", r.Name), "give each its own"})
		}
	}
	return faults
}

// armored is how an armored public key begins (RFC 9580, 6.2).
const armored = "-----BEGIN PGP PUBLIC KEY BLOCK-----"

func (r Repository) faults(at string) []mirrorFault {
	faults := slices.Concat(urlFaults(at+".url", r.URL), keyringFaults(at+".keyring", r.Keyring))
	switch {
	case r.Key == "" && r.Keyring == "":
		faults = append(faults, mirrorFault{at, "has no key, and nothing unsigned is installed", "add keyring: FILE, or key: with the armored public key"})
	case r.Key != "" && r.Keyring != "":
		faults = append(faults, mirrorFault{at + ".key", "is there beside keyring", "remove one"})
	case r.Key != "" && !strings.HasPrefix(strings.TrimSpace(r.Key), armored):
		faults = append(faults, mirrorFault{at + ".key", "is no armored public key", "it begins with " + armored})
	}
	if flat := strings.HasSuffix(r.Suite, "/"); flat != (len(r.Components) == 0) {
		faults = append(faults, mirrorFault{at + ".components", "want one or more, or none where the suite ends with a slash (sources.list(5))", ""})
	}
	return faults
}

func keyringFaults(at, file string) []mirrorFault {
	if file == "" || path.IsAbs(file) && path.Clean(file) == file {
		return nil
	}
	return []mirrorFault{{at, fmt.Sprintf("is %q, want a clean absolute path on this host", file), ""}}
}

func urlFaults(at, text string) []mirrorFault {
	u, err := url.Parse(text)
	switch {
	case err != nil || strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune(`"[]#`, r) }):
		return []mirrorFault{{at, "is no URL", ""}}
	case u.User != nil:
		return []mirrorFault{{at, "has a name or password in it, which would end up in the manifest", "put them into apt_auth.conf(5)"}}
	case !slices.Contains([]string{"http", "https", "file"}, u.Scheme) || u.Scheme != "file" && u.Host == "":
		return []mirrorFault{{at, fmt.Sprintf("is %q, want an http, https or file URL", text), "such as https://mirror.example.org/debian"}}
	}
	return nil
}

// IsSourceLine tells whether a mirror is a whole line of sources.list(5).
func IsSourceLine(mirror string) bool { return strings.HasPrefix(mirror, "deb ") }

// SourceLine takes a line "deb [options] URL suite component..." apart.
func SourceLine(line string) (options []string, url, suite string, components []string, ok bool) {
	rest := strings.TrimSpace(strings.TrimPrefix(line, "deb "))
	if inner, found := strings.CutPrefix(rest, "["); found {
		text, after, closed := strings.Cut(inner, "]")
		if !closed {
			return nil, "", "", nil, false
		}
		options, rest = strings.Fields(text), after
	}
	f := strings.Fields(rest)
	if len(f) < 2 || (len(f) == 2) != strings.HasSuffix(f[1], "/") {
		return nil, "", "", nil, false
	}
	return options, f[0], f[1], f[2:], true
}

// lineOptions are the options that a line may have; those that would let apt take
// what nobody has signed are not among them.
var lineOptions = []string{"arch", "signed-by", "check-valid-until", "by-hash", "pdiffs", "snapshot"}

func lineFaults(at, line string) []mirrorFault {
	options, uri, _, _, ok := SourceLine(line)
	if !ok || strings.ContainsAny(line, "\n\r#") {
		return []mirrorFault{{at, fmt.Sprintf("is %q, which is no line of sources.list(5)", line), `such as "deb https://mirror.example.org/debian bookworm main"`}}
	}
	faults := urlFaults(at, uri)
	for _, o := range options {
		if name, _, _ := strings.Cut(o, "="); !slices.Contains(lineOptions, name) {
			faults = append(faults, mirrorFault{at, fmt.Sprintf("has the option %q, which is not accepted", name), "known are " + strings.Join(lineOptions, ", ")})
		}
	}
	return faults
}
