package builder

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"ward/builder/cache"
	"ward/builder/rootfs"
	"ward/builder/sourceslist"
)

// Inputs are everything that decides what the image becomes, beside the packages
// that the mirror has on the day. Their hash is the image's digest.
type Inputs struct {
	Image    any               `json:"image"`
	Profile  any               `json:"profile"`
	Packages baseInputs        `json:"packages"`
	Binaries map[string]string `json:"binaries"`            // name -> sha256
	Tools    map[string]string `json:"tools"`               // name -> version
	EmbedKey string            `json:"embed_key,omitempty"` // sha256 of the key in the image
	// SecureBoot is the SHA-256 of the certificate whose key has signed UKI and boot loader.
	SecureBoot string `json:"secure_boot,omitempty"`
	Made       string `json:"made"` // when the packages were fetched, RFC 3339
}

// baseInputs decide what the tree of packages is.
type baseInputs struct {
	Release  string   `json:"release"`
	Arch     string   `json:"arch"`
	Mirrors  []string `json:"mirrors"`
	Keyring  string   `json:"keyring"` // sha256
	Packages []string `json:"packages"`
	Tool     string   `json:"tool"`
	Lock     string   `json:"lock,omitempty"` // sha256 of the lock
	Base     string   `json:"base,omitempty"` // digest of the vendor's tree that it starts from
	Apt      []string `json:"apt,omitempty"`  // deb: sources, keys and pins that the image names
	Recipe   int      `json:"recipe"`         // raised when the same inputs give another tree
}

// recipe is the version of what builder/rootfs and settleTree do.
const recipe = 4

// hashInputs hashes everything that the steps depend on.
func (b *build) hashInputs(ctx context.Context) error {
	keyring := b.keyring()
	sum, err := cache.Sum(keyring)
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("keyring %s does not exist\nhint: install the package %s, or name another keyring in the image file (keyring: FILE)", keyring, b.release.KeyringBy)
	}
	if err != nil {
		return fmt.Errorf("keyring: %w", err)
	}
	var apt []string
	if b.release.Format == "deb" {
		if b.apt, err = sourceslist.Of(b.Image, b.release); err != nil {
			return err
		}
		apt = b.apt.Text()
	}
	var base string
	if v := b.vendor(); v != nil {
		if base, err = v.Digest(); err != nil {
			return err
		}
	}
	kernel, err := b.Image.KernelPackage()
	if err != nil {
		return err
	}
	packages := slices.Concat(b.release.Packages, b.Image.Packages, []string{kernel})
	slices.Sort(packages)
	var locked string
	if b.Lock != nil {
		if locked, err = cache.Key(b.Lock); err != nil {
			return err
		}
		if err := b.Lock.For(b.Image.Name, b.release.Name(), b.Image.Arch, base, slices.Compact(packages)); err != nil {
			return err
		}
	}
	b.inputs = Inputs{
		Image: b.Image, Profile: b.Profile,
		Packages: baseInputs{
			Release: b.release.Name(), Arch: b.Image.Arch, Mirrors: b.Image.Mirrors, Keyring: sum,
			Packages: slices.Compact(packages), Lock: locked, Base: base, Apt: apt, Recipe: recipe,
		},
		Binaries: map[string]string{}, Tools: map[string]string{},
	}
	if b.EmbedKey != "" {
		if b.inputs.EmbedKey, err = cache.Sum(b.EmbedKey); err != nil {
			return err
		}
	}
	if b.SecureBoot != nil {
		b.inputs.SecureBoot = b.SecureBoot.Fingerprint()
	}
	return b.hashPrograms(ctx)
}

// keyring is the file with the keys of the distribution's archive.
func (b *build) keyring() string { return cmp.Or(b.Image.Keyring, b.release.Keyring) }

// hashPrograms hashes our programs and asks the tools for their versions, all at
// once: a build with nothing to do does little else.
func (b *build) hashPrograms(ctx context.Context) error {
	var mu sync.Mutex
	var wg sync.WaitGroup
	var faults []error
	ask := func(into map[string]string, name string, f func() (string, error)) {
		wg.Go(func() {
			text, err := f()
			mu.Lock()
			defer mu.Unlock()
			into[name] = text
			if err != nil {
				faults = append(faults, err)
			}
		})
	}
	for name, path := range map[string]string{"ward": b.Binaries.Ward, "ward-init": b.init(), "wardctl": b.Binaries.Wardctl} {
		ask(b.inputs.Binaries, name, func() (string, error) { return cache.Sum(path) })
	}
	tools := map[string][]string{"mke2fs": {"mke2fs", "-V"}, "qemu-img": {"qemu-img", "--version"}, "mkfs.vfat": {"mkfs.vfat", "--help"}}
	if b.Image.BIOS() {
		tools["syslinux"] = []string{"syslinux", "--version"}
	}
	if b.verified() {
		tools["veritysetup"] = []string{"veritysetup", "--version"}
	}
	for name, argv := range tools {
		ask(b.inputs.Tools, name, func() (string, error) { return toolVersion(ctx, b.Log, argv) })
	}
	wg.Go(func() {
		tool, err := rootfs.Tool(ctx, b.Log, b.release)
		mu.Lock()
		defer mu.Unlock()
		b.inputs.Packages.Tool = tool
		if err != nil {
			faults = append(faults, err)
		}
	})
	wg.Wait()
	return errors.Join(faults...)
}

// compare hashes the inputs and ends the build if its output has been made from
// these. Nothing is written then, not even into the cache.
func (b *build) compare(ctx context.Context) error {
	if err := b.hashInputs(ctx); err != nil {
		return err
	}
	old, err := ReadManifest(b.Output)
	if err != nil || b.Update && b.Lock == nil {
		return nil
	}
	key, err := cache.Key(b.inputs.Packages)
	if err != nil {
		return err
	}
	// The packages that a build would take: the lock's, the cache's or, if the cache
	// was pruned meanwhile, still those in the image.
	made := old.Made
	if e, err := cache.Peek(b.Cache, packagesKind, key); err == nil {
		made = madeOf(e)
	}
	if err := b.dated(made); err != nil {
		return err
	}
	if old.Digest != b.digest {
		return nil
	}
	err = old.unchanged(b.Output, b.Check)
	if err == nil && b.Sign != nil {
		err = checkSignature(ctx, b.Output, b.Sign)
	}
	if err != nil {
		b.Log.Warn("the output is not what is asked for and is made again", "why", err)
		return nil
	}
	b.result = old
	b.event.Text = "nothing changed, " + b.Output + " is up to date"
	return errUpToDate
}

// dated completes the inputs with when the packages were fetched.
func (b *build) dated(made time.Time) (err error) {
	if b.made = made; b.Lock != nil {
		b.made = b.Lock.Made
	}
	b.inputs.Made = b.made.Format(time.RFC3339)
	b.digest, err = cache.Key(b.inputs)
	return err
}
