package proof

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/GehirnInc/crypt/sha512_crypt"
	"golang.org/x/crypto/ssh"

	"ward/builder"
	"ward/builder/key"
	"ward/builder/proof/lab"
	"ward/builder/vm"
	"ward/profiles"
	"ward/profiles/machine"
)

// Image is what a folder that ward build made says of itself.
type Image struct {
	Dir      string
	Manifest *builder.Manifest
	Profile  profiles.Profile
	Arch     string
}

// OpenImage reads an output folder and compares its files with the manifest: a
// proof is about these bytes and no others.
func OpenImage(dir string) (*Image, error) {
	m, err := builder.ReadManifest(dir)
	if err != nil {
		return nil, fmt.Errorf("image %s: %w\nhint: ward build makes one", dir, err)
	}
	if err := m.Verify(dir); err != nil {
		return nil, fmt.Errorf("image %s: %w", dir, err)
	}
	var inputs struct {
		Profile profiles.Profile `json:"profile"`
	}
	if err := json.Unmarshal(m.Inputs, &inputs); err != nil {
		return nil, fmt.Errorf("image %s: inputs of the manifest: %w", dir, err)
	}
	image := &Image{Dir: dir, Manifest: m, Profile: inputs.Profile}
	if image.Arch, err = m.Arch(); err != nil {
		return nil, fmt.Errorf("image %s: %w", dir, err)
	}
	if _, err := os.Stat(image.Disk()); err != nil {
		return nil, fmt.Errorf("image %s: %w", dir, err)
	}
	return image, nil
}

// Disk is the disk image that a machine is started from.
func (i *Image) Disk() string { return filepath.Join(i.Dir, "disk.qcow2") }

// Volumes are the PHI volumes that the image's machines have.
func (i *Image) Volumes() []profiles.Volume { return i.Profile.Controls.PHI.All() }

// Person is somebody whose login is tried, with what proves who they are.
type Person struct {
	Name     string
	Key      ssh.Signer
	Password string
}

// Fixture is all that one throw-away machine needs, and the lab around it.
// Nothing in it outlives its folder.
type Fixture struct {
	Dir      string
	Key      string // image of the key device
	Ignition string // the compiled config
	Config   machine.Machine
	Admin    Person // may log in, read PHI and become root
	Clerk    Person // may log in and read PHI
	Outsider Person // has an account and a key, is not in the group for PHI
	Lab      *lab.Lab
}

// NewFixture makes one in dir, which must be private to us. Close stops its lab.
func NewFixture(ctx context.Context, dir string, image *Image, log *slog.Logger) (f *Fixture, err error) {
	f = &Fixture{Dir: dir, Key: filepath.Join(dir, "key.img"), Ignition: filepath.Join(dir, "config.ign")}
	defer func() {
		if err != nil {
			f.Close()
			err = fmt.Errorf("fixture: %w", err)
		}
	}()
	var volumes []string
	for _, v := range image.Volumes() {
		volumes = append(volumes, v.Name)
	}
	if err := key.New(ctx, log, f.Key, volumes); err != nil {
		return nil, err
	}
	if f.Lab, err = lab.Start(dir, vm.HostAddr); err != nil {
		return nil, err
	}
	const hostname = "proof.ward.test"
	group := image.Profile.Controls.Accounts.Group
	f.Config = machine.Machine{Hostname: hostname, Backup: f.Lab.Repository("proof"), Time: f.Lab.TimeServers()}
	if f.Config.Logging, err = f.Lab.Logging(hostname); err != nil {
		return nil, err
	}
	for _, p := range []struct {
		person *Person
		name   string
		full   string
		groups []string
		sudo   bool
	}{
		{&f.Admin, "proof-admin", "Ada Proof", []string{group}, true},
		{&f.Clerk, "proof-clerk", "Carl Proof", []string{group}, false},
		{&f.Outsider, "proof-outsider", "Oda Proof", nil, false},
	} {
		if *p.person, err = NewPerson(p.name); err != nil {
			return nil, err
		}
		hash, err := hashPassword(p.person.Password)
		if err != nil {
			return nil, err
		}
		f.Config.People = append(f.Config.People, machine.Person{
			Name: p.name, FullName: p.full, Groups: p.groups, Sudo: p.sudo, PasswordHash: hash,
			SSHKeys: []string{strings.TrimSpace(string(ssh.MarshalAuthorizedKey(p.person.Key.PublicKey())))},
		})
	}
	return f, f.Write()
}

// Write compiles Config anew into Ignition.
func (f *Fixture) Write() error {
	data, err := machine.Compile(&f.Config)
	if err != nil {
		return err
	}
	// It holds password hashes and a private key.
	temp := f.Ignition + ".new"
	if err := os.WriteFile(temp, data, 0o600); err != nil {
		return err
	}
	return os.Rename(temp, f.Ignition)
}

// VM is the machine of this fixture, for vm.Start.
func (f *Fixture) VM(image *Image) vm.Config {
	return vm.Config{Arch: image.Arch, Image: image.Disk(), Key: f.Key, Ignition: f.Ignition}
}

// Close stops the lab.
func (f *Fixture) Close() error {
	if f.Lab == nil {
		return nil
	}
	return f.Lab.Close()
}

// NewPerson makes somebody with a key and a password.
func NewPerson(name string) (Person, error) {
	signer, err := newSigner()
	if err != nil {
		return Person{}, err
	}
	password, err := lab.Secret()
	return Person{Name: name, Key: signer, Password: password}, err
}

func newSigner() (ssh.Signer, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	return ssh.NewSignerFromKey(private)
}

// hashPassword is a hash of crypt(5) by sha512.
func hashPassword(password string) (string, error) {
	salt, err := lab.Secret()
	if err != nil {
		return "", err
	}
	return sha512_crypt.New().Generate([]byte(password), []byte("$6$"+salt[:16]))
}
