// Package key makes and checks key-device images: a small ext4 file system,
// labelled WARD-KEY, with one key file of 64 random bytes for each PHI volume.
// Attached to a machine as a disk it is where init finds the keys. The key bytes
// are never in a file or an argument of their own, only inside the image.
//
//	err := key.New(ctx, log, "key.img", []string{"phi-data"})
//	err = key.Check(ctx, log, "key.img", []string{"phi-data"})
package key

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"ward/initramfs/handoff"
)

const (
	// Size is how many random bytes a key file has: 512 bits, as much as the
	// volume key of aes-xts-plain64 with 512 bits.
	Size = 64
	// minSize is the shortest key file that opens a volume; init refuses shorter ones.
	minSize = 32
	// maxSize is the longest key file that init reads.
	maxSize = 8 << 10
	// imageKiB is the size of an image. ext4 needs about 200 KiB of it.
	imageKiB = 4096
)

// volumeName is a device-mapper name that is a file name too.
var volumeName = regexp.MustCompile(`^[a-z][a-z0-9-]{0,31}$`)

// New writes a key-device image with a new key for each volume. It refuses to
// replace a file: a key that is lost cannot be made again, and the data is lost
// with it. The image appears whole or not at all, with mode 0600.
func New(ctx context.Context, log *slog.Logger, file string, volumes []string) (err error) {
	if len(volumes) == 0 {
		return errors.New("no volume is named")
	}
	for i, v := range volumes {
		if !volumeName.MatchString(v) {
			return fmt.Errorf("volume %q: want a letter, then at most 31 of a-z, 0-9 and -", v)
		}
		if slices.Index(volumes, v) < i {
			return fmt.Errorf("volume %q is named twice", v)
		}
	}
	if _, err := os.Lstat(file); err == nil {
		return exists(file)
	}
	dir := filepath.Dir(file)
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		return fmt.Errorf("folder %s does not exist", dir)
	}
	temp, err := os.CreateTemp(dir, "."+filepath.Base(file)+"-*") // mode 0600
	if err != nil {
		return fmt.Errorf("key image: %w", err)
	}
	defer func() {
		if e := discard(temp, err != nil); e != nil {
			err = errors.Join(err, e)
		}
	}()
	if err := format(ctx, log, temp.Name()); err != nil {
		return err
	}
	for _, v := range volumes {
		if err := add(ctx, log, temp.Name(), v); err != nil {
			return fmt.Errorf("volume %s: %w", v, err)
		}
	}
	if err := Check(ctx, log, temp.Name(), volumes); err != nil {
		return fmt.Errorf("the new image does not pass its own check: %w", err)
	}
	if err := temp.Sync(); err != nil {
		return fmt.Errorf("key image: %w", err)
	}
	// link(2) does what rename(2) does not: it fails when the name is taken.
	if err := os.Link(temp.Name(), file); errors.Is(err, fs.ErrExist) {
		return exists(file)
	} else if err != nil {
		return fmt.Errorf("key image: %w", err)
	}
	return syncDir(dir)
}

func exists(file string) error {
	return fmt.Errorf("%s exists and is not replaced: a lost key cannot be made again\nhint: choose another name, or move it away if you are sure that no volume needs it", file)
}

// discard removes the temporary name, and the key bytes behind it when the
// image did not get its final name.
func discard(temp *os.File, failed bool) error {
	var errs []error
	if failed {
		_, err := temp.WriteAt(make([]byte, imageKiB<<10), 0)
		errs = append(errs, err)
	}
	return errors.Join(append(errs, os.Remove(temp.Name()), temp.Close())...)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// format makes the empty file system. It has no journal: nothing writes to a
// key device while it is in use.
func format(ctx context.Context, log *slog.Logger, file string) error {
	_, err := tool(ctx, log, nil, "mke2fs", "-q", "-F", "-t", "ext4", "-O", "^has_journal", "-b", "1024", "-N", "32", "-m", "0",
		"-L", handoff.KeyLabel, "-E", "root_owner=0:0,lazy_itable_init=0,nodiscard", file, fmt.Sprintf("%dk", imageKiB))
	return err
}

// add puts a new key for a volume into the image. The bytes go from the kernel's
// generator through memory that has no name to debugfs.
func add(ctx context.Context, log *slog.Logger, image, volume string) error {
	key := make([]byte, Size)
	defer clear(key)
	if _, err := rand.Read(key); err != nil {
		return err
	}
	fd, err := unix.MemfdCreate("ward-key", unix.MFD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("memfd_create: %w", err)
	}
	memory := os.NewFile(uintptr(fd), "ward-key")
	defer memory.Close()
	defer memory.WriteAt(make([]byte, Size), 0)
	if _, err := memory.Write(key); err != nil {
		return err
	}
	name := fileName(volume)
	// debugfs reads one command a line; 0100400 is a regular file, r--------.
	commands := fmt.Sprintf("write /proc/self/fd/3 %[1]s\nsif %[1]s mode 0100400\nsif %[1]s uid 0\nsif %[1]s gid 0\n", name)
	return debugfs(ctx, log, image, commands, memory)
}

// fileName is how init looks for a volume's key.
func fileName(volume string) string { return volume + ".key" }

// debugfs changes an image. It exits 0 whatever happens, so that anything it
// says on standard error, its version line aside, counts as a failure.
func debugfs(ctx context.Context, log *slog.Logger, image, commands string, extra *os.File) error {
	log.DebugContext(ctx, "run", "argv", "debugfs -w -f - "+image)
	cmd := exec.CommandContext(ctx, program("debugfs"), "-w", "-f", "-", image)
	cmd.Stdin = strings.NewReader(commands)
	cmd.ExtraFiles = []*os.File{extra}
	cmd.Env = []string{"LC_ALL=C", "PATH=" + os.Getenv("PATH")}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Run(); err != nil {
		return toolError("debugfs", err, stderr.String())
	}
	if text := withoutVersion(stderr.String()); text != "" {
		return fmt.Errorf("debugfs: %s", text)
	}
	return nil
}

// withoutVersion drops the line "debugfs 1.47.0 (5-Feb-2023)".
func withoutVersion(text string) string {
	first, rest, _ := strings.Cut(text, "\n")
	if strings.HasPrefix(first, "debugfs 1.") {
		text = rest
	}
	return strings.TrimSpace(text)
}

// tool runs a program and returns its output.
func tool(ctx context.Context, log *slog.Logger, stdin io.Reader, argv ...string) ([]byte, error) {
	log.DebugContext(ctx, "run", "argv", strings.Join(argv, " "))
	cmd := exec.CommandContext(ctx, program(argv[0]), argv[1:]...)
	cmd.Stdin = stdin
	cmd.Env = []string{"LC_ALL=C", "PATH=" + os.Getenv("PATH"), "MTOOLS_SKIP_CHECK=1"}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return nil, toolError(argv[0], err, stderr.String())
	}
	return stdout.Bytes(), nil
}

func toolError(name string, err error, stderr string) error {
	if errors.Is(err, exec.ErrNotFound) {
		return fmt.Errorf("%s is not installed\nhint: install %s", name, map[string]string{"mke2fs": "e2fsprogs", "debugfs": "e2fsprogs", "mcopy": "mtools", "mlabel": "mtools"}[name])
	}
	if text := strings.TrimSpace(stderr); text != "" {
		return fmt.Errorf("%s: %w: %s", name, err, text[strings.LastIndexByte(text, '\n')+1:])
	}
	return fmt.Errorf("%s: %w", name, err)
}

// program finds tools of sbin also for people who do not have it in their PATH.
func program(name string) string {
	if _, err := exec.LookPath(name); err != nil {
		for _, dir := range []string{"/usr/sbin", "/sbin"} {
			if p := filepath.Join(dir, name); exec.Command(p).Err == nil {
				if _, err := os.Stat(p); err == nil {
					return p
				}
			}
		}
	}
	return name
}
