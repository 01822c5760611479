// Package mfa enrols people for one-time passwords beside their SSH key (the
// control mfa of the profile). The secret is made on the machine, is shown once,
// and is kept in a file that only root may read.
package mfa

import (
	"crypto/rand"
	"encoding/base32"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"ward/profiles/control"
)

// scratchCodes is how many codes a person gets for the day on which the phone is lost.
const scratchCodes = 5

// Enrol makes a new secret for one of the machine's people and returns what an
// app reads (otpauth://...) and the codes that each work once. A person who is
// enrolled already has to be removed first: a second secret made by mistake would
// shut them out.
func Enrol(t *control.Target, name string) (uri string, scratch []string, err error) {
	if !t.Profile.Controls.MFA.Enabled {
		return "", nil, fmt.Errorf("the profile %s does not ask for one-time passwords\nhint: controls.mfa.enabled: true, and bake the image again", t.Profile.Name)
	}
	if err := known(t, name); err != nil {
		return "", nil, err
	}
	file := path.Join(control.MFADir, name)
	if _, err := t.Root.Lstat(file); err == nil {
		return "", nil, fmt.Errorf("%s is enrolled already\nhint: wardctl mfa remove %s", name, name)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return "", nil, err
	}
	secret := make([]byte, 20) // RFC 4226 4 R6: 160 bits
	if _, err := rand.Read(secret); err != nil {
		return "", nil, err
	}
	if scratch, err = control.NewScratch(scratchCodes); err != nil {
		return "", nil, err
	}
	if err := t.Root.MkdirAll(control.MFADir, 0o700); err != nil {
		return "", nil, err
	}
	if err := control.WriteFile(t.Root, file, control.MFASecret(secret, scratch), 0o600); err != nil {
		return "", nil, err
	}
	host := t.Machine.Hostname
	u := url.URL{Scheme: "otpauth", Host: "totp", Path: "/" + host + ":" + name, RawQuery: url.Values{
		"secret": {base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(secret)}, "issuer": {host},
	}.Encode()}
	return u.String(), scratch, nil
}

// known refuses who is not one of the machine's people; so no name leads
// elsewhere in the file system.
func known(t *control.Target, name string) error {
	if t.Machine == nil {
		return errors.New("there is no machine file, so nobody is known")
	}
	var names []string
	for _, p := range t.Machine.People {
		if p.Name == name {
			return nil
		}
		names = append(names, p.Name)
	}
	return fmt.Errorf("%q is not one of this machine's people: %s", name, strings.Join(names, ", "))
}

// Remove takes the secret of a person away; they cannot log in until they are
// enrolled again.
func Remove(t *control.Target, name string) error {
	if err := known(t, name); err != nil {
		return err
	}
	err := t.Root.Remove(path.Join(control.MFADir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s is not enrolled", name)
	}
	return err
}

// Enrolled returns the names of who is enrolled, in order.
func Enrolled(t *control.Target) ([]string, error) {
	d, err := t.Root.Open(control.MFADir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	names = slices.DeleteFunc(names, func(n string) bool { return strings.HasPrefix(n, ".") })
	slices.Sort(names)
	return names, err
}

// Command is `wardctl mfa`.
func Command(open func() (t *control.Target, done func() error, err error)) *cobra.Command {
	c := &cobra.Command{
		Use:   "mfa",
		Short: "enrol people for one-time passwords",
		Long: `mfa enrols people for the one-time passwords that the SSH server asks for beside
the key, when the profile says so. Who is not enrolled cannot log in over SSH: the
first person is enrolled at the console.`,
	}
	with := func(f func(c *cobra.Command, t *control.Target, args []string) error) func(*cobra.Command, []string) error {
		return func(c *cobra.Command, args []string) error {
			t, done, err := open()
			if err != nil {
				return err
			}
			return errors.Join(f(c, t, args), done())
		}
	}
	c.AddCommand(
		&cobra.Command{
			Use: "enrol USER", Short: "make a secret for a person and show it once", Args: cobra.ExactArgs(1),
			RunE: with(func(c *cobra.Command, t *control.Target, args []string) error {
				if f, ok := c.OutOrStdout().(*os.File); ok {
					if info, err := f.Stat(); err == nil && info.Mode().IsRegular() {
						return errors.New("the secret would go into a file\nhint: run it on a terminal")
					}
				}
				uri, scratch, err := Enrol(t, args[0])
				if err != nil {
					return err
				}
				return show(c.OutOrStdout(), args[0], uri, scratch)
			}),
		},
		&cobra.Command{
			Use: "remove USER", Short: "take a person's secret away", Args: cobra.ExactArgs(1),
			RunE: with(func(c *cobra.Command, t *control.Target, args []string) error {
				if err := Remove(t, args[0]); err != nil {
					return err
				}
				_, err := fmt.Fprintf(c.OutOrStdout(), "%s is not enrolled any more.\n", args[0])
				return err
			}),
		},
		&cobra.Command{
			Use: "status", Short: "say who is enrolled", Args: cobra.NoArgs,
			RunE: with(func(c *cobra.Command, t *control.Target, _ []string) error {
				names, err := Enrolled(t)
				if err != nil {
					return err
				}
				for _, p := range t.Machine.People {
					state := "not enrolled"
					if slices.Contains(names, p.Name) {
						state = "enrolled"
					}
					fmt.Fprintf(c.OutOrStdout(), "%s: %s\n", p.Name, state)
				}
				return nil
			}),
		},
	)
	return c
}

func show(out io.Writer, name, uri string, scratch []string) error {
	_, err := fmt.Fprintf(out, `%s is enrolled. This is shown once.
For the app: %s
For the day without the phone, each works once: %s
`, name, uri, strings.Join(scratch, " "))
	return err
}
