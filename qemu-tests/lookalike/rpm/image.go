package rpm

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"

	"ward/images"
)

// Image is the image that is built from the look-alike.
const Image = "rocky-9"

// MakeIn makes a repository in a folder. The tree of Debian's packages that it is made
// of is kept where WARD_LOOKALIKE_BASE says, which spares the next run minutes.
func MakeIn(ctx context.Context, log *slog.Logger, dir string) (Archive, error) {
	base := os.Getenv("WARD_LOOKALIKE_BASE")
	if base == "" {
		base = filepath.Join(dir, "base.tar")
	}
	if _, err := os.Stat(base); errors.Is(err, os.ErrNotExist) {
		if err := Base(ctx, log, base); err != nil {
			return Archive{}, err
		}
	}
	out := filepath.Join(dir, "archive")
	if err := os.Mkdir(out, 0o755); err != nil {
		return Archive{}, err
	}
	return Make(ctx, log, base, out)
}

// WriteImage writes the file of the image that ward ships, with a mirror and its key.
func WriteImage(file, mirror, keyring string) error {
	img, err := images.Load(Image)
	if err != nil {
		return err
	}
	img.Mirrors, img.Keyring = []string{mirror}, keyring
	text, err := json.Marshal(img)
	if err != nil {
		return err
	}
	return os.WriteFile(file, text, 0o600)
}
