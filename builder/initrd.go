package builder

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"ward/builder/cache"
	"ward/initramfs"
)

// packed is an initramfs and what went into it.
type packed struct {
	Baked
	image []byte
	init  []byte
	keys  map[string][]byte // embedded ones, by name
}

// pack makes the initramfs for the kernel in the tree of packages, or takes it from
// the cache: every image of these packages with the same sources of keys has the
// same one. One with embedded keys is not shared.
func (b *bake) pack(ctx context.Context, tree string) (packed, error) {
	pattern := filepath.Join(tree, b.release.KernelPath("*"))
	kernels, err := filepath.Glob(pattern)
	if err != nil || len(kernels) != 1 {
		return packed{}, fmt.Errorf("the tree has %d kernels at /%s, want one (%q)", len(kernels), b.release.KernelPath("*"), kernels)
	}
	before, after, _ := strings.Cut(pattern, "*")
	p := packed{Baked: Baked{Kernel: strings.TrimSuffix(strings.TrimPrefix(kernels[0], before), after)}}
	if p.init, err = os.ReadFile(b.Init); err != nil {
		return p, err
	}
	if p.keys, err = b.keys(); err != nil {
		return p, err
	}
	if len(p.keys) > 0 || b.Cache == "" {
		p.image, p.Modules, err = b.compress(p, tree)
		return p, err
	}
	init := sha256.Sum256(p.init)
	key, err := cache.Key([]any{b.Code, b.facts.Digest, p.Kernel, hex.EncodeToString(init[:]), b.Modules, b.Config})
	if err != nil {
		return p, err
	}
	c, err := cache.Open(b.Cache, b.log, removeTree(b.log))
	if err != nil {
		return p, err
	}
	defer c.Close()
	err = b.cached(ctx, c, key, &p, tree, false)
	if errors.Is(err, errDamaged) {
		err = b.cached(ctx, c, key, &p, tree, true)
	}
	return p, err
}

// cached takes the image from the cache, or from a new entry.
func (b *bake) cached(ctx context.Context, c *cache.Cache, key string, p *packed, tree string, fresh bool) error {
	e, _, err := c.Get(ctx, "initramfs", key, fresh, func(_ context.Context, dir string) error {
		image, modules, err := b.compress(*p, tree)
		if err != nil {
			return err
		}
		// What is made from a damaged tree must not be found by the next build.
		if _, err := b.lower.wait(); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, initrdFile), image, 0o644); err != nil {
			return err
		}
		return writeJSON(filepath.Join(dir, bakedFile), Baked{Kernel: p.Kernel, Modules: modules})
	})
	if err != nil {
		return err
	}
	if err := e.Verify(initrdFile, bakedFile); err != nil {
		b.log.Warn("the cached initramfs is damaged and is made again", "why", err)
		return fmt.Errorf("%w: %w", errDamaged, err)
	}
	if p.image, err = os.ReadFile(e.Path(initrdFile)); err != nil {
		return err
	}
	return readJSON(e.Path(bakedFile), &p.Baked)
}

func (b *bake) compress(p packed, tree string) ([]byte, []string, error) {
	var image bytes.Buffer
	result, err := initramfs.Build(&image, initramfs.Spec{
		Init: p.init, KernelVersion: p.Kernel, Modules: b.Modules, Config: b.Config, Keys: p.keys,
		ModulesFS: os.DirFS(filepath.Join(tree, "usr/lib/modules", p.Kernel)),
	})
	return image.Bytes(), result.Modules, err
}

// keys are the key files to embed.
func (b *bake) keys() (map[string][]byte, error) {
	if b.EmbedKey == "" {
		return nil, nil
	}
	data, err := os.ReadFile(b.EmbedKey)
	if err != nil {
		return nil, err
	}
	keys := map[string][]byte{}
	for _, v := range b.Config.Volumes {
		keys[v.KeyFile] = data
	}
	return keys, nil
}
