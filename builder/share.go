package builder

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"ward/builder/provenance"
	"ward/builder/registry"
)

// digestNote is the note of a pushed image that names its inputs.
const digestNote = "ward.digest"

// PushOutput checks a finished output as VerifyOutput does and pushes it.
func PushOutput(ctx context.Context, dir, ref string, key provenance.Verifier, done registry.Done) (*Manifest, Signature, error) {
	m, signature, err := VerifyOutput(ctx, dir, key)
	if err != nil {
		return nil, "", err
	}
	names, err := m.names(dir)
	if err != nil {
		return nil, "", err
	}
	return m, signature, registry.Push(ctx, ref, registry.Image, dir, names, m.Made.UTC().Format(time.RFC3339), map[string]string{digestNote: m.Digest}, done)
}

// names are the files that belong to an output; what else lies in its folder does not.
func (m *Manifest) names(dir string) ([]string, error) {
	names, err := namesIn(dir)
	return slices.DeleteFunc(names, func(name string) bool {
		if _, ok := m.Files[name]; ok {
			return false
		}
		return !slices.Contains([]string{manifestFile, sumsFile, provenanceFile, provenance.MinisignFile, provenance.EnvelopeFile}, name)
	}), err
}

// PullOutput pulls an image into a folder, which appears, or is replaced, only
// when every file is what manifest, sums and provenance say and, if key is given,
// the provenance was signed with it.
func PullOutput(ctx context.Context, ref, dir string, key provenance.Verifier, done registry.Done) (*Manifest, Signature, error) {
	parent := filepath.Dir(filepath.Clean(dir))
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return nil, "", err
	}
	work, lock, err := workFolder(parent, filepath.Base(dir))
	if err != nil {
		return nil, "", err
	}
	defer lock.Close()
	defer os.RemoveAll(work) // it has another name by then if all went well
	if _, err := registry.Pull(ctx, ref, registry.Image, work, done); err != nil {
		return nil, "", err
	}
	m, signature, err := VerifyOutput(ctx, work, key)
	if err != nil {
		return nil, "", fmt.Errorf("pull %s: %w", ref, err)
	}
	all, err := namesIn(work)
	if err != nil {
		return nil, "", err
	}
	known, err := m.names(work)
	if err != nil {
		return nil, "", err
	}
	for _, name := range all {
		if !slices.Contains(known, name) {
			return nil, "", fmt.Errorf("pull %s: has a file %s that its manifest does not name", ref, name)
		}
	}
	for _, name := range all {
		if err := os.Chmod(filepath.Join(work, name), 0o644); err != nil {
			return nil, "", err
		}
	}
	if err := settle(work, m.Made); err != nil {
		return nil, "", err
	}
	return m, signature, publish(work, filepath.Clean(dir))
}
