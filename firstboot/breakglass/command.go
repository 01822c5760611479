package breakglass

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"ward/profiles/control"
)

// Command is `wardctl breakglass`. open returns the machine to work on and what
// gives it back.
func Command(open func() (t *control.Target, done func() error, err error)) *cobra.Command {
	c := &cobra.Command{
		Use:   "breakglass",
		Short: "open or seal the emergency account",
		Long: `breakglass opens the emergency account when people cannot get in with their own
accounts, and seals it again. It is sealed until somebody opens it, with a reason
and for a time; the time's end, a reboot and "close" seal it. Opening and sealing
are logged at priority alert, and all that the account does is recorded under the
audit key breakglass. While it is open, wardctl verify fails and says who opened
it, until when and why.`,
	}
	with := func(f func(*cobra.Command, *Account) error) func(*cobra.Command, []string) error {
		return func(c *cobra.Command, _ []string) error {
			t, done, err := open()
			if err != nil {
				return err
			}
			return errors.Join(f(c, New(t)), done())
		}
	}
	c.AddCommand(openCommand(with), closeCommand(with), statusCommand(with))
	return c
}

type withAccount func(func(*cobra.Command, *Account) error) func(*cobra.Command, []string) error

func openCommand(with withAccount) *cobra.Command {
	var r Request
	var keyFile string
	c := &cobra.Command{
		Use:   "open --reason TEXT --for TIME [--key FILE]",
		Short: "open the emergency account for a time",
		Long: `open prints a new password, once, for a login at the console; with --key it
instead lets that SSH key in, and there is no password.`,
		Example: `  wardctl breakglass open --reason "directory server down, ward 3 cannot chart" --for 2h
  wardctl breakglass open --reason "night shift locked out" --for 30m --key oncall.pub`,
		Args: cobra.NoArgs,
		RunE: with(func(c *cobra.Command, a *Account) error {
			if keyFile != "" {
				key, err := readKey(keyFile)
				if err != nil {
					return err
				}
				r.Key = key
			}
			use, password, err := a.Open(c.Context(), r)
			if err != nil {
				return err
			}
			out := c.OutOrStdout()
			fmt.Fprintf(out, "%s is open until %s.\n", a.user(), use.Until.Format(time.RFC3339))
			if password == "" {
				fmt.Fprintf(out, "It logs in by SSH with the key of %s.\n", keyFile)
			} else {
				fmt.Fprintf(out, "password: %s\nIt is valid at the console, and is not shown again.\n", password)
			}
			fmt.Fprintln(out, "Everything it does is recorded. When you are done: wardctl breakglass close")
			return nil
		}),
	}
	c.Flags().StringVar(&r.Reason, "reason", "", "why, in a few words; it is logged and reviewed")
	c.Flags().DurationVar(&r.For, "for", 0, "how long, such as 2h or 30m")
	c.Flags().StringVar(&keyFile, "key", "", "let in the public SSH key in `FILE` instead of a password")
	c.MarkFlagRequired("reason")
	c.MarkFlagRequired("for")
	return c
}

// maxKeyFile is longer than any public key.
const maxKeyFile = 16 << 10

func readKey(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err != nil {
		return "", err
	}
	if len(b) > maxKeyFile {
		return "", fmt.Errorf("%s: is longer than %d bytes, so it is no public key", name, maxKeyFile)
	}
	if len(b) == 0 {
		return "", fmt.Errorf("%s: is empty", name)
	}
	return string(b), nil
}

func closeCommand(with withAccount) *cobra.Command {
	var boot, expired bool
	c := &cobra.Command{
		Use:   "close",
		Short: "seal the emergency account now",
		Args:  cobra.NoArgs,
		RunE: with(func(c *cobra.Command, a *Account) error {
			by := a.Who()
			switch {
			case boot:
				by = "a reboot"
			case expired:
				by = "the end of its time"
			}
			if err := a.Close(c.Context(), by); err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "%s is sealed.\n", a.user())
			return nil
		}),
	}
	c.Flags().BoolVar(&boot, "boot", false, "because the machine has started (used by ward-breakglass.service)")
	c.Flags().BoolVar(&expired, "expired", false, "because its time is over (used by the timer)")
	c.MarkFlagsMutuallyExclusive("boot", "expired")
	return c
}

func statusCommand(with withAccount) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "status",
		Short: "show the uses of the emergency account",
		Args:  cobra.NoArgs,
		RunE: with(func(c *cobra.Command, a *Account) error {
			uses, err := a.Uses()
			if err != nil {
				return err
			}
			out := c.OutOrStdout()
			if asJSON {
				e := json.NewEncoder(out)
				e.SetIndent("", "  ")
				return e.Encode(uses)
			}
			return printUses(out, a.user(), uses)
		}),
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print all uses as JSON")
	return c
}

func printUses(out io.Writer, user string, uses *control.BreakglassUses) error {
	if u := uses.Open(); u != nil {
		fmt.Fprintf(out, "%s is open until %s\n", user, u.Until.Format(time.RFC3339))
	} else {
		fmt.Fprintf(out, "%s is sealed\n", user)
	}
	if len(uses.Uses) == 0 {
		return nil
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "OPENED\tBY\tSEALED\tBY\tREASON")
	for _, u := range uses.Uses {
		closed := "-"
		if !u.Closed.IsZero() {
			closed = u.Closed.Format(time.RFC3339)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", u.Opened.Format(time.RFC3339), u.By, closed, u.ClosedBy, u.Reason)
	}
	return w.Flush()
}
