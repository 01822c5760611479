package control

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"path"
	"strings"

	"ward/images/distro"
	"ward/profiles"
)

// What fscrypt needs on the PHI volume. The raw key lies inside the LUKS volume,
// so it is protected by the volume's key and by nothing that the machine's own
// disk holds; root alone may read it.
const (
	fscryptDir   = profiles.DataMount + "/.ward"
	fscryptKey   = fscryptDir + "/fscrypt.key"
	fscryptTrial = fscryptDir + "/lock-trial" // locked and unlocked by the check
)

// Fscrypt encrypts a folder on the PHI volume once more, file by file and name
// by name, so that it can be locked while the volume stays open.
func Fscrypt(p *profiles.Profile, r distro.Release) Control {
	dir := path.Join(profiles.DataMount, p.Controls.Fscrypt.Directory)
	owner := p.Controls.Accounts.Service + ":" + p.Controls.Accounts.Group
	const mode = "2770" // people of the group add records; new files belong to the group
	return Control{
		ID:    "fscrypt",
		Title: "patient records are encrypted once more inside the volume, and can be locked",
		Why:   "An open volume shows everything in it to whoever gets root or a copy of the running machine; a locked folder shows neither content nor names.",
		Refs:  []string{"45 CFR 164.312(a)(2)(iv)", "NIST 800-53 SC-28(1)"},
		Settings: []Setting{
			setting{name: "key", apply: applyFscryptKey, want: "root:root 400 32 bytes, on " + phiData.device(), check: checkFscryptKey},
			setting{name: dir, apply: func(ctx context.Context, t *Target) error {
				if err := applyFscryptDir(ctx, t, dir); err != nil || t.Phase != FirstBoot {
					return err
				}
				return ownFscryptDir(ctx, t, dir, owner, mode)
			}, want: "encrypted with one raw key protector, unlocked; " + owner + " " + mode, check: func(ctx context.Context, m *Machine) (string, error) {
				return checkFscryptDir(ctx, m, dir)
			}},
			setting{name: "a locked folder", apply: func(ctx context.Context, t *Target) error { return applyFscryptDir(ctx, t, fscryptTrial) },
				want: "shows neither names nor content, and both again when unlocked", check: checkFscryptLock},
		},
	}
}

// onMount runs apply only at first boot and only when the volume is mounted:
// what it makes must never land on the bare mount point.
func onMount(ctx context.Context, t *Target, apply func() error) error {
	if t.Phase != FirstBoot {
		return nil
	}
	if on, err := phiData.mounted(ctx, t.Run); err != nil || !on {
		return err
	}
	return apply()
}

// applyFscryptKey makes the raw key, once, and sets fscrypt up on the volume.
func applyFscryptKey(ctx context.Context, t *Target) error {
	// fscrypt setup makes its folders for login protectors in / too, or finds them
	// there (seen with 0.3.3): a verified root must have them from the start.
	if t.Phase == Bake && t.Profile.Controls.Integrity.Root == profiles.RootVerity {
		for _, dir := range []string{".fscrypt/policies", ".fscrypt/protectors"} {
			if err := t.Root.MkdirAll(dir, 0o755); err != nil {
				return err
			}
		}
	}
	return onMount(ctx, t, func() error {
		// fscrypt setup asks before it changes a setup that is there; without a
		// configuration it makes one, fscrypt(8).
		if _, err := t.Run(ctx, "test", "-s", "/etc/fscrypt.conf"); exitCode(err) == 1 {
			if _, err := t.Run(ctx, "fscrypt", "setup", "--quiet", "--force"); err != nil {
				return err
			}
		} else if err != nil {
			return err
		}
		if _, err := t.Run(ctx, "test", "-d", profiles.DataMount+"/.fscrypt"); exitCode(err) == 1 {
			if _, err := t.Run(ctx, "fscrypt", "setup", profiles.DataMount, "--quiet"); err != nil {
				return err
			}
		} else if err != nil {
			return err
		}
		if _, err := t.Run(ctx, "install", "-d", "-o", "root", "-g", "root", "-m", "0700", fscryptDir); err != nil {
			return err
		}
		if _, err := t.Run(ctx, "test", "-s", fscryptKey); err == nil {
			return nil
		} else if exitCode(err) != 1 {
			return err
		}
		// A folder that is encrypted already cannot be opened by a new key.
		if out, err := t.Run(ctx, "sh", "-c", "ls "+profiles.DataMount+"/.fscrypt/protectors"); err != nil {
			return err
		} else if strings.TrimSpace(out) != "" {
			return fmt.Errorf("%s is missing but %s has protectors made with it\nhint: restore the file from the backup; a new one opens nothing", fscryptKey, profiles.DataMount)
		}
		key := make([]byte, 32) // exactly: fscrypt(8), --key
		rand.Read(key)
		defer clear(key)
		if err := t.Root.WriteFile(fscryptKey[1:]+".new", key, 0o400); err != nil {
			return err
		}
		// The key is on the disk before anything is encrypted with it.
		if _, err := t.Run(ctx, "sync", fscryptKey+".new"); err != nil {
			return err
		}
		if err := t.Root.Rename(fscryptKey[1:]+".new", fscryptKey[1:]); err != nil {
			return err
		}
		_, err := t.Run(ctx, "sync", fscryptDir)
		return err
	})
}

// fscryptState is what fscrypt status says of a folder.
type fscryptState struct {
	encrypted, unlocked bool
	protectors          []string // "raw key protector"
}

// readFscrypt asks the kernel whether a folder is encrypted (lsattr(1), "E"), and
// fscrypt about one that is.
func readFscrypt(ctx context.Context, run runner, dir string) (fscryptState, error) {
	out, err := run(ctx, "lsattr", "-d", dir)
	if err != nil {
		return fscryptState{}, err
	}
	flags, _, ok := strings.Cut(out, " ")
	if !ok {
		return fscryptState{}, fmt.Errorf("lsattr printed %q", out)
	}
	if !strings.Contains(flags, "E") {
		return fscryptState{}, nil
	}
	if out, err = run(ctx, "fscrypt", "status", dir); err != nil {
		return fscryptState{}, err
	}
	return parseFscrypt(out)
}

// parseFscrypt reads the output of fscrypt status DIR, version 0.3:
//
//	"DIR" is encrypted with fscrypt.
//
//	Policy:   16 or 32 hex digits
//	Options:  padding:32 ...
//	Unlocked: Yes
//
//	Protected with 1 protector:
//	PROTECTOR         LINKED  DESCRIPTION
//	01234567890abcdef No      raw key protector "ward"
func parseFscrypt(out string) (fscryptState, error) {
	var s fscryptState
	head, table, ok := strings.Cut(out, "DESCRIPTION\n")
	if !ok || !strings.Contains(head, "is encrypted with fscrypt") {
		return s, fmt.Errorf("fscrypt status printed %q", out)
	}
	s.encrypted = true
	for line := range strings.Lines(head) {
		if v, ok := strings.CutPrefix(line, "Unlocked:"); ok {
			// "Partially (incompletely locked)" is not unlocked, and not locked either.
			s.unlocked = strings.TrimSpace(v) == "Yes"
		}
	}
	for line := range strings.Lines(table) {
		f := strings.Fields(line)
		if len(f) < 3 {
			continue
		}
		kind, _, _ := strings.Cut(strings.Join(f[2:], " "), ` "`)
		s.protectors = append(s.protectors, kind)
	}
	return s, nil
}

// applyFscryptDir makes an encrypted folder, or unlocks it after a boot.
func applyFscryptDir(ctx context.Context, t *Target, dir string) error {
	return onMount(ctx, t, func() error {
		if _, err := t.Run(ctx, "mkdir", "-p", "-m", "0700", dir); err != nil {
			return err
		}
		s, err := readFscrypt(ctx, t.Run, dir)
		switch {
		case err != nil:
			return err
		case s.unlocked:
			return nil
		case s.encrypted:
			_, err := t.Run(ctx, "fscrypt", "unlock", dir, "--key="+fscryptKey, "--quiet")
			return err
		}
		_, err = t.Run(ctx, "fscrypt", "encrypt", dir, "--source=raw_key", "--name="+path.Base(dir), "--key="+fscryptKey, "--no-recovery", "--quiet")
		if err != nil {
			return fmt.Errorf("%w\nhint: a folder must be empty before it can be encrypted; move what is in %s away and apply again", err, dir)
		}
		_, err = t.Run(ctx, "sync", "-f", profiles.DataMount)
		return err
	})
}

func ownFscryptDir(ctx context.Context, t *Target, dir, owner, mode string) error {
	return onMount(ctx, t, func() error {
		if _, err := t.Run(ctx, "chown", owner, dir); err != nil {
			return err
		}
		_, err := t.Run(ctx, "chmod", mode, dir)
		return err
	})
}

// withPHI is whenMapped for what must be mounted.
func withPHI(ctx context.Context, m *Machine, check func() (string, error)) (string, error) {
	if on, err := phiData.mounted(ctx, m.Run); err != nil {
		return "", err
	} else if !on {
		return "absent: " + phiData.notMounted(), nil
	}
	return check()
}

func checkFscryptKey(ctx context.Context, m *Machine) (string, error) {
	return withPHI(ctx, m, func() (string, error) {
		out, err := m.Run(ctx, "stat", "--format", "%U:%G %a %s bytes", fscryptKey)
		if exitCode(err) == 1 {
			return "there is no " + fscryptKey, nil
		} else if err != nil {
			return "", err
		}
		source, err := m.Run(ctx, "findmnt", "--noheadings", "--output", "SOURCE", "--target", fscryptKey)
		if err != nil {
			return "", err
		}
		return strings.TrimSpace(out) + ", on " + strings.TrimSpace(source), nil
	})
}

func checkFscryptDir(ctx context.Context, m *Machine, dir string) (string, error) {
	return withPHI(ctx, m, func() (string, error) {
		owner, err := m.Run(ctx, "stat", "--format", "%U:%G %a", dir)
		if exitCode(err) == 1 {
			return "there is no " + dir, nil
		} else if err != nil {
			return "", err
		}
		s, err := readFscrypt(ctx, m.Run, dir)
		if err != nil {
			return "", err
		}
		if !s.encrypted {
			return "not encrypted; " + strings.TrimSpace(owner), nil
		}
		lock := map[bool]string{true: "unlocked", false: "locked"}[s.unlocked]
		return fmt.Sprintf("encrypted with %s, %s; %s", protectors(s.protectors), lock, strings.TrimSpace(owner)), nil
	})
}

func protectors(list []string) string {
	if len(list) == 1 {
		return "one " + list[0]
	}
	return fmt.Sprintf("%d protectors (%s)", len(list), strings.Join(list, ", "))
}

// checkFscryptLock really locks a folder: it writes a file with a name that
// nobody else has, locks, looks, unlocks, and reads the file again.
func checkFscryptLock(ctx context.Context, m *Machine) (string, error) {
	return withPHI(ctx, m, func() (got string, err error) {
		s, err := readFscrypt(ctx, m.Run, fscryptTrial)
		if err != nil {
			return "", err
		}
		if !s.encrypted {
			return fscryptTrial + " is not encrypted", nil
		}
		unlock := func() error {
			s, err := readFscrypt(ctx, m.Run, fscryptTrial)
			if err != nil || s.unlocked { // fscrypt refuses to unlock what is unlocked
				return err
			}
			_, err = m.Run(ctx, "fscrypt", "unlock", fscryptTrial, "--key="+fscryptKey, "--quiet")
			return err
		}
		if err := unlock(); err != nil {
			return "", err
		}
		// What a check that was interrupted left behind would be listed as well.
		if _, err := m.Run(ctx, "find", fscryptTrial, "-mindepth", "1", "-delete"); err != nil {
			return "", err
		}
		const name = "canary"
		content := rand.Text()
		file := path.Join(fscryptTrial, name)
		if _, err := m.RunInput(ctx, content, "dd", "of="+file, "conv=fsync", "status=none"); err != nil {
			return "", err
		}
		if _, err := m.Run(ctx, "fscrypt", "lock", fscryptTrial, "--quiet"); err != nil {
			return "", err
		}
		defer func() { // whatever was seen, the next check finds it unlocked and empty
			if e := unlock(); e != nil {
				err = errors.Join(err, e)
				return
			}
			_, e := m.Run(ctx, "rm", "-f", file)
			err = errors.Join(err, e)
		}()
		names, err := m.Run(ctx, "ls", "-A", fscryptTrial)
		if err != nil {
			return "", err
		}
		names = strings.TrimSpace(names)
		switch {
		case names == "":
			return "", errors.New("the locked folder lists nothing, not even an encrypted name")
		case strings.Contains(names, name):
			return "a locked folder shows the name " + name, nil
		}
		if text, err := m.Run(ctx, "cat", path.Join(fscryptTrial, names)); err == nil {
			return fmt.Sprintf("a file in a locked folder can be read, %d bytes", len(text)), nil
		} else if exitCode(err) != 1 {
			return "", err
		}
		if err := unlock(); err != nil {
			return "", err
		}
		text, err := m.Run(ctx, "cat", file)
		if err != nil {
			return "", err
		}
		if text != content {
			return "the file has another content after unlocking", nil
		}
		return "shows neither names nor content, and both again when unlocked", nil
	})
}
