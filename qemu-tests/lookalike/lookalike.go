// Package lookalike makes a signed archive in the shape of Ubuntu's out of
// Debian's packages, for builds where no mirror of Ubuntu is in reach: suites
// with their pockets, components, a kernel under Ubuntu's names with compressed
// modules, an SSH server behind a socket, a confined rsyslogd, and an os-release
// that says Ubuntu.
//
//	a, err := lookalike.Make(ctx, log, locked, store, dir)
//	http.Serve(listener, a.Handler()) // deb http://127.0.0.1:PORT/ubuntu noble main universe
//
// It shows that ward deals with the shape: names, places, units, pockets and
// signatures. The programs are Debian's, so it shows nothing of what Ubuntu's own
// versions do; for that there is make test-real with a mirror.
package lookalike

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"ward/builder/command"
	"ward/builder/lock"
)

// The release that is looked like. Debian 12's versions fit the row of Ubuntu 24.04
// best: what ward asks of OpenSSH 9.6, systemd 255 and audit 3.1 was there in 9.2,
// 252 and 3.0, and both have systemd-resolved and systemd-boot-efi apart.
const (
	Image    = "ubuntu-24.04"
	codename = "noble"
	version  = "24.04"
	// From is the image whose lock has the packages.
	From = "debian-12"
)

// Archive is a made archive.
type Archive struct {
	Dir     string // what is served as /ubuntu
	Keyring string // file with the public key
}

// Handler serves the archive below /ubuntu.
func (a *Archive) Handler() http.Handler {
	return http.StripPrefix("/ubuntu", http.FileServer(http.Dir(a.Dir)))
}

// universe are the packages that Ubuntu has in that component.
var universe = []string{
	"aide", "audispd-plugins", "fscrypt", "gnutls-bin", "libpam-fscrypt", "libpam-google-authenticator",
	"restic", "rsyslog-openssl", "rsyslog-relp",
}

// pockets are packages that a pocket alone has: a build that knows no pockets does
// not find them.
var pockets = map[string]string{"less": "-updates", "sudo": "-security"}

// Make makes the archive in an empty folder from the packages of a lock of Debian.
// It must be root, or in a namespace where it is: packages have owners.
func Make(ctx context.Context, log *slog.Logger, l *lock.Lock, s *lock.Store, dir string) (*Archive, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("lookalike: packages are taken apart and put together as root; this is another user")
	}
	m := &maker{log: log, dir: filepath.Join(dir, "ubuntu"), work: filepath.Join(dir, "work"), suites: map[string]*suite{}}
	defer os.RemoveAll(m.work)
	for _, p := range l.Packages {
		if err := m.add(ctx, s, p, l.File(p)); err != nil {
			return nil, fmt.Errorf("lookalike: %s: %w", p.Name, err)
		}
	}
	if m.abi == "" {
		return nil, errors.New("lookalike: the lock has no kernel")
	}
	a := &Archive{Dir: m.dir, Keyring: filepath.Join(dir, "keyring.gpg")}
	if err := m.publish(a.Keyring); err != nil {
		return nil, fmt.Errorf("lookalike: %w", err)
	}
	return a, nil
}

// maker is one run of Make.
type maker struct {
	log       *slog.Logger
	dir, work string
	abi       string // of the kernel: "6.1.0-56"
	suites    map[string]*suite
}

// add puts a package, or what is made of it, into the pool; name is that of its file.
func (m *maker) add(ctx context.Context, s *lock.Store, p lock.Package, name string) error {
	pool, err := m.pool(p.Name)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(changes, func(c change) bool { return c.fits(p.Name) })
	if i < 0 {
		file := filepath.Join(pool, name)
		if err := s.Link(p, file); err != nil {
			return err
		}
		return m.index(ctx, p.Name, file)
	}
	file := filepath.Join(m.work, name)
	tree := filepath.Join(m.work, p.Name)
	if err := os.MkdirAll(m.work, 0o755); err != nil {
		return err
	}
	if err := s.Link(p, file); err != nil {
		return err
	}
	if err := command.Run(ctx, m.log, "dpkg-deb", "--raw-extract", file, tree); err != nil {
		return err
	}
	return changes[i].do(ctx, m, tree, p)
}

// component is where a package belongs.
func component(name string) string {
	if slices.Contains(universe, name) {
		return "universe"
	}
	return "main"
}

func (m *maker) pool(name string) (string, error) {
	dir := filepath.Join(m.dir, "pool", component(name), name[:1], name)
	return dir, os.MkdirAll(dir, 0o755)
}

// pack makes a package of a tree; its version stays, so that other packages'
// dependencies on it hold. Ubuntu's packages are compressed with zstd.
func (m *maker) pack(ctx context.Context, tree, name, version string) error {
	if err := sums(tree); err != nil {
		return err
	}
	pool, err := m.pool(name)
	if err != nil {
		return err
	}
	_, short, epoch := strings.Cut(version, ":")
	if !epoch {
		short = version
	}
	file := filepath.Join(pool, name+"_"+short+"_amd64.deb")
	if err := command.Run(ctx, m.log, "dpkg-deb", "-Zzstd", "-z3", "--build", tree, file); err != nil {
		return err
	}
	return m.index(ctx, name, file)
}
