package builder

import (
	"context"
	"errors"
	"os"
	"path/filepath"
)

// held is the package of the kernel where the machine cannot make an update of it
// bootable: the key that signs is not there. It comes with the next image.
func (b *build) held() string {
	if b.SecureBoot == nil {
		return ""
	}
	kernel, _ := b.Image.KernelPackage() // hashInputs has looked
	return kernel
}

// started are the files that a UEFI firmware starts, by what Bake calls them: as
// they were baked, or signed copies in the work folder, which remove takes away.
// They are signed here and not in the bake: the key never enters the namespace in
// which programs of packages run, nor a cache.
func (b *build) started(ctx context.Context) (files map[string]string, remove func(), err error) {
	files = map[string]string{}
	remove = func() {}
	for _, name := range []string{loaderFile, ukiFile} {
		files[name] = b.baked.Path(name)
	}
	if b.SecureBoot == nil {
		return files, remove, nil
	}
	var made []string
	remove = func() {
		for _, name := range made {
			os.Remove(name)
		}
	}
	for name, from := range files {
		to := filepath.Join(b.work, "signed-"+name)
		made = append(made, to)
		err = errors.Join(err, b.SecureBoot.SignFile(ctx, b.Log, to, from))
		files[name] = to
	}
	if err != nil {
		remove()
	}
	return files, remove, err
}
