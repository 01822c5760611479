package builder

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"ward/builder/cache"
	"ward/builder/lock"
	"ward/builder/provenance"
)

// provenanceFile says what the output was made from, see package provenance.
const provenanceFile = "provenance.json"

// attest writes the provenance of the output, whose files m has and whose
// manifest has the digest own, and signs it.
func (b *build) attest(ctx context.Context, m *Manifest, own string) error {
	subjects := map[string]string{manifestFile: own}
	for name, f := range m.Files {
		subjects[name] = f.SHA256
	}
	statement := provenance.New(subjects,
		map[string]any{"image": b.inputs.Image, "profile": b.inputs.Profile},
		map[string]any{"tools": b.inputs.Tools, "packages": b.inputs.Packages, "made": b.inputs.Made},
		b.resolved(), b.digest, b.Version)
	name := filepath.Join(b.work, provenanceFile)
	if err := writeJSON(name, statement); err != nil || b.Sign == nil {
		return err
	}
	data, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	signature, err := b.Sign.Sign(ctx, data)
	if err != nil {
		return fmt.Errorf("sign %s: %w", provenanceFile, err)
	}
	return os.WriteFile(filepath.Join(b.work, b.Sign.File()), signature, 0o644)
}

// resolved are the inputs that are files, with their digests, and the packages:
// those of a lock with theirs, otherwise the tree that they made.
func (b *build) resolved() []provenance.Resource {
	sha := func(hex string) map[string]string { return map[string]string{"sha256": hex} }
	var all []provenance.Resource
	for _, name := range slices.Sorted(maps.Keys(b.inputs.Binaries)) {
		all = append(all, provenance.Resource{Name: name, Digest: sha(b.inputs.Binaries[name])})
	}
	all = append(all, provenance.Resource{Name: "keyring", Digest: sha(b.inputs.Packages.Keyring)})
	if b.inputs.Packages.Base != "" {
		all = append(all, provenance.Resource{Name: "base", Digest: sha(b.inputs.Packages.Base)})
	}
	if b.inputs.EmbedKey != "" {
		all = append(all, provenance.Resource{Name: "embedded key", Digest: sha(b.inputs.EmbedKey)})
	}
	if b.inputs.SecureBoot != "" { // of its DER form, as firmware and openssl x509 -fingerprint tell it
		all = append(all, provenance.Resource{Name: "secure boot certificate", Digest: sha(b.inputs.SecureBoot)})
	}
	if b.Lock == nil {
		// Its digest is ward's own: of names, owners, modes and contents.
		return append(all, provenance.Resource{Name: "packages", Digest: map[string]string{"wardTree": b.treeSum}})
	}
	all = append(all, provenance.Resource{Name: "lock", Digest: sha(b.inputs.Packages.Lock)})
	return append(all, lockedPackages(b.Lock)...)
}

func lockedPackages(l *lock.Lock) []provenance.Resource {
	var all []provenance.Resource
	for _, p := range l.Packages {
		all = append(all, provenance.Resource{Name: p.Name + "_" + p.Version + "_" + p.Arch, URI: p.URL, Digest: map[string]string{"sha256": p.SHA256}})
	}
	return all
}

// Signature is what VerifyOutput found out about the signature.
type Signature string

const (
	NotSigned  Signature = "not signed"
	NotChecked Signature = "signed, and the signature was not checked" // no key was given
	Checked    Signature = "the signature is good"
)

// VerifyOutput reads a whole output folder and returns every fault: a file that is
// not what the manifest, the sums or the provenance say, and, if key is given, a
// signature that is missing or was not made with it.
func VerifyOutput(ctx context.Context, dir string, key provenance.Verifier) (*Manifest, Signature, error) {
	m, err := ReadManifest(dir)
	if err != nil {
		return nil, "", err
	}
	faults := []error{m.Verify(dir), m.checkSums(dir), m.checkProvenance(dir)}
	signature := NotSigned
	for _, name := range []string{provenance.MinisignFile, provenance.EnvelopeFile} {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			signature = NotChecked
		}
	}
	if key != nil {
		signature = Checked
		faults = append(faults, checkSignature(ctx, dir, key))
	}
	return m, signature, errors.Join(faults...)
}

// checkSums compares sumsFile with the manifest, and the files that only it names
// with their bytes: the manifest, the provenance and its signature.
func (m *Manifest) checkSums(dir string) error {
	name := filepath.Join(dir, sumsFile)
	text, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	var faults []error
	seen := map[string]bool{}
	for line := range strings.Lines(string(text)) {
		sum, file, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "  ")
		if !ok || filepath.Base(file) != file || seen[file] {
			return fmt.Errorf("%s: cannot read %q", name, line)
		}
		seen[file] = true
		if f, ok := m.Files[file]; ok {
			if f.SHA256 != sum {
				faults = append(faults, fmt.Errorf("%s: says %s of %s, the manifest says %s", name, sum, file, f.SHA256))
			}
			continue
		}
		got, err := cache.Sum(filepath.Join(dir, file))
		if err != nil {
			faults = append(faults, err)
		} else if got != sum {
			faults = append(faults, fmt.Errorf("%s: sha256 is %s, %s says %s", filepath.Join(dir, file), got, sumsFile, sum))
		}
	}
	for _, file := range append(slices.Sorted(maps.Keys(m.Files)), manifestFile, provenanceFile) {
		if !seen[file] {
			faults = append(faults, fmt.Errorf("%s: does not name %s", name, file))
		}
	}
	return errors.Join(faults...)
}

// checkProvenance compares the subjects of the provenance with the manifest.
func (m *Manifest) checkProvenance(dir string) error {
	name := filepath.Join(dir, provenanceFile)
	data, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	s, err := provenance.Read(data)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	own, err := cache.Sum(filepath.Join(dir, manifestFile))
	if err != nil {
		return err
	}
	want := map[string]string{manifestFile: own}
	for file, f := range m.Files {
		want[file] = f.SHA256
	}
	subjects := s.Subjects()
	var faults []error
	for _, file := range slices.Sorted(maps.Keys(want)) {
		if subjects[file] != want[file] {
			faults = append(faults, fmt.Errorf("%s: is about %s with sha256 %q, not %s", name, file, subjects[file], want[file]))
		}
	}
	if len(subjects) != len(want) {
		faults = append(faults, fmt.Errorf("%s: is about %d files, the output has %d", name, len(subjects), len(want)))
	}
	if got := s.Predicate.RunDetails.Metadata.InvocationID; got != m.Digest {
		faults = append(faults, fmt.Errorf("%s: is about the inputs %s, the manifest about %s", name, got, m.Digest))
	}
	return errors.Join(faults...)
}

// checkSignature checks that of the provenance, which names all else.
func checkSignature(ctx context.Context, dir string, key provenance.Verifier) error {
	name := filepath.Join(dir, key.File())
	signature, err := os.ReadFile(name)
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%s: there is no signature of this kind of key\nhint: ward build --sign KEY signs", name)
	}
	if err != nil {
		return err
	}
	data, err := os.ReadFile(filepath.Join(dir, provenanceFile))
	if err != nil {
		return err
	}
	if err := key.Verify(ctx, data, signature); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}
