// Package registry keeps folders of files in an OCI registry: finished images
// under the names that people give them, and entries of the build cache for other
// machines. A folder is an artifact (OCI image manifest 1.1) with one layer for
// each file; the registry's digests are checked on the way in. Who may read and
// write is what the registry says to the credentials of ~/.docker/config.json.
//
//	err := registry.Push(ctx, "oci://registry.example/ward/debian-12:2026-11", registry.Image, dir, names, created, notes, nil)
//	notes, err := registry.Pull(ctx, "oci://registry.example/ward/debian-12:2026-11", registry.Image, dir, nil)
package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"path/filepath"
	"slices"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/content/file"
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/credentials"
	"oras.land/oras-go/v2/registry/remote/retry"
)

// Kinds of artifacts, as their media type says.
const (
	Image = "application/vnd.ward.image.v1"
	Entry = "application/vnd.ward.cache.v1"
)

// fileType is the media type of each layer.
const fileType = "application/vnd.ward.file.v1"

// Schemes of references. Without one it is https.
const (
	scheme      = "oci://"
	plainScheme = "oci+http://" // for a registry on loopback or in a laboratory
)

// maxManifest is the most that is read of an artifact's manifest, in bytes.
const maxManifest = 4 << 20

// ErrNotFound says that the registry has no such artifact.
var ErrNotFound = errors.New("the registry has no such artifact")

// Is tells whether a text is a reference to a registry rather than a folder.
func Is(ref string) bool {
	return strings.HasPrefix(ref, scheme) || strings.HasPrefix(ref, plainScheme)
}

// open returns the repository and the tag or digest in it.
func open(ref string) (*remote.Repository, string, error) {
	name, plain := strings.CutPrefix(ref, plainScheme)
	name = strings.TrimPrefix(name, scheme)
	repo, err := remote.NewRepository(name)
	if err != nil {
		return nil, "", fmt.Errorf("%s: %w\nhint: want oci://HOST/NAME:TAG", ref, err)
	}
	store, err := credentials.NewStoreFromDocker(credentials.StoreOptions{})
	if err != nil {
		return nil, "", fmt.Errorf("credentials: %w", err)
	}
	repo.PlainHTTP = plain
	repo.Client = &auth.Client{Client: retry.DefaultClient, Cache: auth.NewCache(), Credential: credentials.Credential(store)}
	return repo, repo.Reference.Reference, nil
}

// Check tells what is wrong with a reference; a cache's has no tag.
func Check(ref string, tagged bool) error {
	_, tag, err := open(ref)
	switch {
	case err != nil:
		return err
	case tagged && tag == "":
		return fmt.Errorf("%s: has no tag\nhint: want oci://HOST/NAME:TAG", ref)
	case !tagged && tag != "":
		return fmt.Errorf("%s: has the tag %s, and each entry of a cache has its own\nhint: want oci://HOST/NAME", ref, tag)
	}
	return nil
}

// Done is told of each file that is there, with its size in bytes; it may be nil,
// and is called from several goroutines.
type Done func(name string, size int64)

func (d Done) options() oras.CopyOptions {
	o := oras.DefaultCopyOptions
	tell := func(_ context.Context, desc ocispec.Descriptor) error {
		if name := desc.Annotations[ocispec.AnnotationTitle]; d != nil && name != "" {
			d(name, desc.Size)
		}
		return nil
	}
	o.PostCopy, o.OnCopySkipped = tell, tell // skipped: the registry has it
	return o
}

// Push stores files of a folder under a reference. notes go with them; created, in
// RFC 3339, is the artifact's time: equal folders have one digest.
func Push(ctx context.Context, ref, kind, dir string, names []string, created string, notes map[string]string, done Done) error {
	repo, tag, err := open(ref)
	if err != nil {
		return err
	}
	if dir, err = filepath.Abs(dir); err != nil { // the store takes relative names from its own folder
		return err
	}
	store, err := file.New(dir)
	if err != nil {
		return err
	}
	defer store.Close()
	var layers []ocispec.Descriptor
	for _, name := range slices.Sorted(slices.Values(names)) {
		layer, err := store.Add(ctx, name, fileType, filepath.Join(dir, name))
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		layers = append(layers, layer)
	}
	annotations := map[string]string{ocispec.AnnotationCreated: created}
	for k, v := range notes {
		annotations[k] = v
	}
	root, err := oras.PackManifest(ctx, store, oras.PackManifestVersion1_1, kind, oras.PackManifestOptions{Layers: layers, ManifestAnnotations: annotations})
	if err != nil {
		return err
	}
	if err := store.Tag(ctx, root, tag); err != nil {
		return err
	}
	if _, err := oras.Copy(ctx, store, tag, repo, tag, done.options()); err != nil {
		return fmt.Errorf("push %s: %w", ref, err)
	}
	return nil
}

// Pull fetches the files of an artifact into an empty folder and returns its
// notes. The digest of each file is checked against the artifact's manifest; who
// wrote that is for others to check.
func Pull(ctx context.Context, ref, kind, dir string, done Done) (map[string]string, error) {
	repo, tag, err := open(ref)
	if err != nil {
		return nil, err
	}
	root, manifest, err := read(ctx, repo, tag)
	if errors.Is(err, errdef.ErrNotFound) {
		return nil, fmt.Errorf("pull %s: %w", ref, ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("pull %s: %w", ref, err)
	}
	if manifest.ArtifactType != kind {
		return nil, fmt.Errorf("pull %s: is a %q, not a %s", ref, manifest.ArtifactType, kind)
	}
	seen := map[string]bool{}
	for _, l := range manifest.Layers {
		name := l.Annotations[ocispec.AnnotationTitle]
		if name == "" || name != path.Base(name) || name == "." || name == ".." || seen[name] {
			return nil, fmt.Errorf("pull %s: %q is no name of a file of its own", ref, name)
		}
		seen[name] = true
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, err
	}
	store, err := file.New(dir)
	if err != nil {
		return nil, err
	}
	defer store.Close()
	store.SkipUnpack, store.DisableOverwrite = true, true
	// By its digest: a tag may move between two requests.
	if _, err := oras.Copy(ctx, repo, root.Digest.String(), store, "", done.options()); err != nil {
		return nil, fmt.Errorf("pull %s: %w", ref, err)
	}
	return manifest.Annotations, nil
}

// read returns the manifest that a tag means now.
func read(ctx context.Context, repo *remote.Repository, tag string) (ocispec.Descriptor, ocispec.Manifest, error) {
	var m ocispec.Manifest
	root, r, err := repo.FetchReference(ctx, tag)
	if err != nil {
		return root, m, err
	}
	defer r.Close()
	if root.Size > maxManifest {
		return root, m, fmt.Errorf("its manifest has %d bytes, more than %d", root.Size, maxManifest)
	}
	data, err := content.ReadAll(io.LimitReader(r, maxManifest), root)
	if err != nil {
		return root, m, err
	}
	return root, m, json.Unmarshal(data, &m)
}
