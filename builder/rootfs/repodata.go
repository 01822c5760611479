package rootfs

import (
	"cmp"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"ward/builder/cache"
	"ward/builder/command"
)

// RPM is a package file of a repository, as its index says.
type RPM struct {
	Name, EVR, Arch string // EVR as rpm's %{EVR}, without an epoch of 0
	URL             string
	Size            int64 // bytes
	SHA256          string
}

// Repository is one repository's index.
type Repository struct{ URL, SHA256 string } // the digest is that of repomd.xml

// maxPrimary is the most of a list of packages that is read, uncompressed, in bytes.
const maxPrimary = 2 << 30

// Find returns the packages of the repositories that want says, in the repositories'
// order. dnf fetches the indexes, and checks their signatures where they have one.
func Find(ctx context.Context, log *slog.Logger, s Spec, want func(RPM) bool) (found []RPM, all []Repository, err error) {
	d := dnf{}
	signed, err := d.resolve(ctx, &s)
	if err != nil {
		return nil, nil, err
	}
	dir, err := os.MkdirTemp("", "ward-repodata-")
	if err != nil {
		return nil, nil, err
	}
	defer os.RemoveAll(dir)
	conf := filepath.Join(dir, "dnf.conf")
	if err := os.WriteFile(conf, []byte(d.config(s, signed)), 0o600); err != nil {
		return nil, nil, err
	}
	lines, err := listen(ctx, log, []string{"dnf", "--assumeyes", "--config=" + conf, "--releasever=" + s.Release.Version,
		"--setopt=cachedir=" + dir + "/cache", "--setopt=persistdir=" + dir + "/persist", "--setopt=logdir=" + dir, "makecache"}, nil, func(string) {})
	if err != nil {
		if why := explainDNF(lines); why != "" {
			err = errors.New(why)
		}
		return nil, nil, err
	}
	for i, base := range s.Mirrors {
		rpms, repo, err := readRepodata(filepath.Join(dir, "cache"), i+1, base, want)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", base, err)
		}
		found, all = append(found, rpms...), append(all, repo)
	}
	return found, all, nil
}

// readRepodata reads what dnf has of the n-th repository: its folder is called by the
// repository and a hash, its list of packages by a digest.
func readRepodata(fetched string, n int, base string, want func(RPM) bool) ([]RPM, Repository, error) {
	folder := fmt.Sprintf("ward-%d-*", n)
	repomd, err := one(filepath.Join(fetched, folder, "repodata", "repomd.xml"))
	if err != nil {
		return nil, Repository{}, err
	}
	sum, err := cache.Sum(repomd)
	if err != nil {
		return nil, Repository{}, err
	}
	repo := Repository{base, sum}
	primary, err := one(filepath.Join(fetched, folder, "repodata", "*-primary.xml*"))
	if err != nil {
		return nil, repo, err
	}
	f, err := os.Open(primary)
	if err != nil {
		return nil, repo, err
	}
	defer f.Close()
	r, err := decompress(f)
	if err != nil {
		return nil, repo, err
	}
	rpms, err := readPrimary(io.LimitReader(r, maxPrimary), base, want)
	return rpms, repo, err
}

func one(pattern string) (string, error) {
	names, err := filepath.Glob(pattern)
	if err == nil && len(names) != 1 {
		err = fmt.Errorf("dnf left %d files %s, want one", len(names), filepath.Base(pattern))
	}
	if err != nil {
		return "", err
	}
	return names[0], nil
}

// primary is a package element of primary.xml
// (https://github.com/rpm-software-management/createrepo_c, its only description).
type primary struct {
	Name    string `xml:"name"`
	Arch    string `xml:"arch"`
	Version struct {
		Epoch   string `xml:"epoch,attr"`
		Version string `xml:"ver,attr"`
		Release string `xml:"rel,attr"`
	} `xml:"version"`
	Checksum struct {
		Type string `xml:"type,attr"`
		Text string `xml:",chardata"`
	} `xml:"checksum"`
	Size struct {
		Package string `xml:"package,attr"`
	} `xml:"size"`
	Location struct {
		Base string `xml:"base,attr"` // xml:base: instead of the repository's
		Href string `xml:"href,attr"`
	} `xml:"location"`
}

// readPrimary reads the list of packages of a repository.
func readPrimary(r io.Reader, base string, want func(RPM) bool) ([]RPM, error) {
	var found []RPM
	in := xml.NewDecoder(r)
	for {
		token, err := in.Token()
		if errors.Is(err, io.EOF) {
			return found, nil
		}
		if err != nil {
			return nil, fmt.Errorf("primary.xml: %w", err)
		}
		start, ok := token.(xml.StartElement)
		if !ok || start.Name.Local != "package" {
			continue
		}
		var p primary
		if err := in.DecodeElement(&p, &start); err != nil {
			return nil, fmt.Errorf("primary.xml: %w", err)
		}
		rpm := RPM{Name: p.Name, EVR: EVR(p.Version.Epoch + ":" + p.Version.Version + "-" + p.Version.Release), Arch: p.Arch}
		if !want(rpm) {
			continue
		}
		if p.Checksum.Type != "sha256" {
			return nil, fmt.Errorf("primary.xml: %s %s has a checksum of type %q, want sha256", rpm.Name, rpm.EVR, p.Checksum.Type)
		}
		rpm.SHA256 = strings.TrimSpace(p.Checksum.Text)
		if rpm.Size, err = strconv.ParseInt(p.Size.Package, 10, 64); err != nil {
			return nil, fmt.Errorf("primary.xml: %s %s: size: %w", rpm.Name, rpm.EVR, err)
		}
		u, err := url.Parse(cmp.Or(p.Location.Base, base))
		if err != nil {
			return nil, fmt.Errorf("primary.xml: %s %s: %w", rpm.Name, rpm.EVR, err)
		}
		rpm.URL = u.JoinPath(p.Location.Href).String()
		found = append(found, rpm)
	}
}

// EVR is a version of rpm without an epoch of 0, which is the same as none.
func EVR(text string) string { return strings.TrimPrefix(strings.TrimPrefix(text, "0:"), ":") }

// Installed asks rpm's database, a folder, what is installed: name, EVR, arch.
func Installed(ctx context.Context, log *slog.Logger, database string) ([]RPM, error) {
	out, err := command.Output(ctx, log, "rpm", "--dbpath", database, "--query", "--all", "--queryformat", `%{NAME}\t%{EVR}\t%{ARCH}\n`)
	if err != nil {
		return nil, err
	}
	var all []RPM
	for line := range strings.Lines(out) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		if len(f) != 3 {
			return nil, fmt.Errorf("rpm says %q, want name, version and architecture", line)
		}
		if f[0] != "gpg-pubkey" { // a key, no package
			all = append(all, RPM{Name: f[0], EVR: EVR(f[1]), Arch: f[2]})
		}
	}
	return all, nil
}
