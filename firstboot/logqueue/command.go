package logqueue

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"ward/profiles/control"
)

// NearlyFull is what `wardctl log queue` returns when the queue is nearly full; it
// has been logged then.
var NearlyFull = errors.New("the log queue is nearly full")

// Command is `wardctl log`. open returns the machine to work on and what gives it
// back.
func Command(open func() (t *control.Target, done func() error, err error)) *cobra.Command {
	c := &cobra.Command{
		Use:   "log",
		Short: "what waits for the log server",
		Long: `log is about the way of each log line to the log server. journald keeps all of
them on disk, up to remote-log.journal_mib of the profile; rsyslogd reads them from
there and sends them. What the server has not taken waits in the journal.`,
	}
	with := func(f func(*cobra.Command, *control.Target) error) func(*cobra.Command, []string) error {
		return func(c *cobra.Command, _ []string) error {
			t, done, err := open()
			if err != nil {
				return err
			}
			return errors.Join(f(c, t), done())
		}
	}
	c.AddCommand(queueCommand(with), stepBackCommand(with))
	return c
}

type withTarget func(func(*cobra.Command, *control.Target) error) func(*cobra.Command, []string) error

func queueCommand(with withTarget) *cobra.Command {
	enforce := false
	c := &cobra.Command{
		Use:   "queue",
		Short: "say how much waits for the log server",
		Long: `queue counts the lines that the log server does not have yet, up to 1000, and the
journal's files that they are in. It ends with 1 when these take 80% of the
journal's room or more: the journal drops its oldest lines when it is full.`,
		Example: "  wardctl log queue",
		Args:    cobra.NoArgs,
		RunE: with(func(c *cobra.Command, t *control.Target) error {
			if t.Machine == nil || t.Machine.Logging == nil {
				fmt.Fprintln(c.OutOrStdout(), "nothing waits: the machine's file has no log server")
				return nil
			}
			q, full, err := Look(c.Context(), t)
			if err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "%d%% of %d MiB: %s\n", full, t.Profile.Controls.RemoteLog.JournalMiB, q)
			if full < control.LogQueueAlarm {
				return nil
			}
			t.Log.Error("the log queue is nearly full: bring the log server back, or lines are lost",
				"full", fmt.Sprintf("%d%%", full), "server", t.Machine.Logging.Server, "queue", q.String())
			if enforce {
				if err := Enforce(c.Context(), t, full); err != nil {
					return err
				}
			}
			return NearlyFull
		}),
	}
	c.Flags().BoolVar(&enforce, "enforce", false, "power the machine off at 95% when the profile says on_full: halt")
	return c
}

func stepBackCommand(with withTarget) *cobra.Command {
	return &cobra.Command{
		Use:   "step-back",
		Short: "have rsyslogd send the last lines again when it starts",
		Long: fmt.Sprintf(`step-back moves rsyslogd's place in the journal back by %d lines: what it had read and
not sent when it ended is sent again. rsyslog.service runs it before each start; it
must not run beside rsyslogd.`, Back),
		Args: cobra.NoArgs,
		RunE: with(func(c *cobra.Command, t *control.Target) error { return StepBack(c.Context(), t, Back) }),
	}
}
