package firstboot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/coreos/ignition/v2/config/v3_5/types"
	"golang.org/x/sys/unix"

	"ward/profiles/control"
	"ward/profiles/machine"
)

// ApplyOptions say how to apply.
type ApplyOptions struct {
	Config string // a file; empty: look where a machine finds its config
	DryRun bool
	Out    io.Writer // where DryRun prints
}

// ApplyResult is what /var/lib/ward/apply.json holds.
type ApplyResult struct {
	Done   bool      `json:"done"`
	Config string    `json:"config_sha256,omitempty"`
	From   string    `json:"from,omitempty"`
	Step   string    `json:"step,omitempty"`  // that failed
	Error  string    `json:"error,omitempty"` // why
	Hint   string    `json:"hint,omitempty"`  // what can be done
	Time   time.Time `json:"time"`
}

func (r ApplyResult) String() string {
	if r.Done {
		return "done"
	}
	s := r.Error
	if r.Step != "" {
		s = r.Step + ": " + r.Error
	}
	if s == "" {
		s = "not run yet"
	}
	return s
}

// Apply makes the machine what its config and its profile say. It may be
// interrupted at any instant; the next run goes on from there. A second run
// with the same config only mounts PHI.
func (m *Machine) Apply(ctx context.Context, o ApplyOptions) error {
	unlock, err := m.lock()
	if err != nil {
		return err
	}
	defer unlock()
	raw, from, err := m.configFor(ctx, o.Config)
	if err != nil {
		return m.failed(&StepError{Step: "config", Err: err})
	}
	c, err := ParseConfig(raw, m.mounts())
	if err == nil {
		err = control.ValidatePeople(c.Machine.People, &m.facts.Profile)
	}
	if err != nil {
		return m.failed(&StepError{Step: "config", Err: err, Hint: "nothing was changed; correct the config, which came from: " + from})
	}
	st := &stamper{root: m.root, inputs: digest(raw, []byte(m.facts.digest)), now: m.now}
	steps, err := m.steps(c)
	if err != nil {
		return m.failed(&StepError{Step: "config", Err: err})
	}
	if o.DryRun {
		return m.plan(o.Out, c, steps, st, from)
	}
	m.log.Info("config read", "from", from, "sha256", digest(raw)[:16])
	changes, err := m.changesFiles(steps, st)
	if err != nil {
		return m.failed(&StepError{Step: "integrity", Err: err})
	}
	if changes {
		m.checkBeforeChange(ctx)
	}
	if err := runSteps(ctx, steps, st, m.log); err != nil {
		return m.failed(err)
	}
	if changes {
		if err := m.takeOver(ctx); err != nil {
			return m.failed(&StepError{Step: "integrity", Err: err})
		}
	}
	if err := st.forget(steps); err != nil {
		return m.failed(&StepError{Step: "stamps", Err: err})
	}
	old := m.Result()
	now := ApplyResult{Done: true, Config: digest(raw), From: from, Time: m.now().UTC()}
	if old.Done && old.Config == now.Config {
		return nil // keep the time at which it was first so
	}
	if err := writeJSON(m.root, ResultPath, now, 0o600); err != nil {
		return err
	}
	return syncAll(m.root)
}

// failed writes down which step failed, tells the console, and returns err.
func (m *Machine) failed(err error) error {
	r := ApplyResult{Error: err.Error(), Time: m.now().UTC()}
	var se *StepError
	if errors.As(err, &se) {
		r.Step, r.Hint = se.Step, se.Hint
		text, hint, ok := strings.Cut(se.Err.Error(), "\nhint: ")
		r.Error = text
		if ok {
			r.Hint = hint
		}
	}
	fmt.Fprintf(m.console, "\n%s\n", r.Console())
	return errors.Join(err, writeJSON(m.root, ResultPath, r, 0o600))
}

// Console is what a person at the machine reads.
func (r ApplyResult) Console() string {
	if r.Done {
		return "ward: the configuration is applied"
	}
	if r.Step == "" && r.Error == "" {
		return "ward: the configuration is not applied yet, so nobody can log in by SSH"
	}
	s := fmt.Sprintf("ward: STOPPED at step %q, so nobody can log in by SSH\n  why:  %s", r.Step, strings.ReplaceAll(r.Error, "\n", "\n        "))
	hint := r.Hint
	if hint == "" {
		hint = "read `journalctl -b -u ward-apply`, correct the cause, then restart the machine; it goes on from this step"
	}
	return s + "\n  hint: " + strings.ReplaceAll(hint, "\n", "\n        ")
}

// Result is how the last apply ended.
func (m *Machine) Result() ApplyResult {
	var r ApplyResult
	b, err := m.root.ReadFile(ResultPath)
	if err == nil {
		err = decodeStrict(ResultPath, b, &r)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return ApplyResult{Error: err.Error()}
	}
	return r
}

func (m *Machine) configFor(ctx context.Context, file string) ([]byte, string, error) {
	if file == "" {
		return m.findConfig(ctx)
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, "", err
	}
	defer f.Close()
	raw, err := readLimited(f, maxConfig)
	return raw, file, err
}

// steps is everything that apply does, in order.
func (m *Machine) steps(c *Config) ([]Step, error) {
	files, err := newStorage(m.root, c.ign, m.lookups)
	if err != nil {
		return nil, err
	}
	later := func(n types.Node) bool { return inConfig(c, n) }
	steps := []Step{
		{Name: "keep the config", Run: func(context.Context) error {
			_, err := writeFile(m.root, ConfigPath, c.raw, 0o600, 0, 0)
			return err
		}},
		{Name: "machine file", Run: func(context.Context) error {
			return writeJSON(m.root, clean(machine.Path), c.Machine, 0o600)
		}},
		{Name: "hostname", Run: func(ctx context.Context) error { return m.hostname(c.Machine.Hostname) }},
		{Name: "network", Run: func(ctx context.Context) error { return m.network(ctx, c.Machine.Network) }},
		{Name: "host keys", Run: m.hostKeys},
		{Name: "groups", Run: func(ctx context.Context) error { return m.groups(ctx, c.ign.Passwd.Groups) }},
		{Name: "files", Run: func(ctx context.Context) error {
			return files.apply(ctx, c, func(n types.Node) bool { return !later(n) })
		}},
		{Name: "size of the disk", Always: true, Run: m.growDisks},
		{Name: "volumes", Always: true, Run: m.prepareVolumes},
		{Name: "mounts", Always: true, Run: m.mountVolumes},
		{Name: "size of the volumes", Always: true, Run: m.growVolumes},
		{Name: "recovery keys", Always: true, Run: m.sealRecoveryKeys},
		{Name: "keys in the TPM", Always: true, Run: m.sealToTPM},
	}
	for _, ctl := range control.Catalogue(&m.facts.Profile, m.facts.Release) {
		steps = append(steps, Step{
			Name: "control " + ctl.ID,
			// What these two make does not outlast a boot.
			Always: slices.Contains([]string{"phi", "fscrypt"}, ctl.ID),
			Run:    func(ctx context.Context) error { return control.Apply(ctx, ctl, m.target(&c.Machine)) },
		})
	}
	return append(steps,
		Step{Name: "files of people", Run: func(ctx context.Context) error { return files.apply(ctx, c, later) }},
		Step{Name: "units", Run: func(ctx context.Context) error { return m.units(ctx, c.ign.Systemd.Units) }},
	), nil
}

// plan prints what Apply would do.
func (m *Machine) plan(out io.Writer, c *Config, steps []Step, st *stamper, from string) error {
	fmt.Fprintf(out, "config from %s\n", from)
	before, err := m.machineFile()
	if err != nil {
		return err
	}
	for _, line := range people(before.People, c.Machine.People) {
		fmt.Fprintln(out, line)
	}
	for _, s := range steps {
		state := "run"
		switch {
		case s.Always:
			state = "every boot"
		case st.done(s.Name):
			state = "unchanged"
		}
		fmt.Fprintf(out, "%-10s  %s\n", state, s.Name)
	}
	return nil
}

// people says who comes, who goes and whose account changes.
func people(before, after []machine.Person) []string {
	find := func(in []machine.Person, name string) int {
		return slices.IndexFunc(in, func(p machine.Person) bool { return p.Name == name })
	}
	var lines []string
	for _, p := range after {
		i := find(before, p.Name)
		switch {
		case i < 0:
			lines = append(lines, fmt.Sprintf("add         %s (%s), %d keys", p.Name, p.FullName, len(p.SSHKeys)))
		case !samePerson(before[i], p):
			lines = append(lines, fmt.Sprintf("change      %s (%s)", p.Name, p.FullName))
		}
	}
	for _, p := range before {
		if find(after, p.Name) < 0 {
			lines = append(lines, fmt.Sprintf("remove      %s (%s)", p.Name, p.FullName))
		}
	}
	return lines
}

func samePerson(a, b machine.Person) bool {
	return a.FullName == b.FullName && a.Sudo == b.Sudo && a.PasswordHash == b.PasswordHash &&
		slices.Equal(a.SSHKeys, b.SSHKeys) && slices.Equal(a.Groups, b.Groups)
}

var errLocked = errors.New("another wardctl is changing this machine")

// lock keeps two applies from running at once.
func (m *Machine) lock() (unlock func(), err error) {
	if err := m.root.MkdirAll(StateDir, 0o700); err != nil {
		return nil, err
	}
	f, err := m.root.OpenFile(StateDir+"/lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, errHint(errLocked, "wait for it; see `systemctl status ward-apply`")
	}
	return func() { f.Close() }, nil
}

// waitLock waits for whoever is changing the machine now.
func (m *Machine) waitLock(ctx context.Context) (unlock func(), err error) {
	for {
		unlock, err := m.lock()
		if err == nil || !errors.Is(err, errLocked) {
			return unlock, err
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(err, ctx.Err())
		case <-time.After(time.Second):
		}
	}
}

// hostname sets the name in the running kernel and for the next boots.
func (m *Machine) hostname(name string) error {
	if name == "" {
		return nil
	}
	if _, err := writeFile(m.root, "etc/hostname", []byte(name+"\n"), 0o644, 0, 0); err != nil {
		return err
	}
	hosts, err := m.root.ReadFile("etc/hosts")
	if errors.Is(err, fs.ErrNotExist) {
		hosts = []byte("127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n")
	} else if err != nil {
		return err
	}
	// 127.0.1.1 is where Debian puts the machine's own name, so that it resolves
	// without a network: Debian Reference, 5.1.1.
	short, _, _ := strings.Cut(name, ".")
	line := "127.0.1.1 " + name
	if short != name {
		line += " " + short
	}
	if _, err := writeFile(m.root, "etc/hosts", []byte(setLine(string(hosts), 0, "127.0.1.1", line)), 0o644, 0, 0); err != nil {
		return err
	}
	if m.root.Name() != "/" {
		return nil // a test's tree has no kernel
	}
	if err := unix.Sethostname([]byte(name)); err != nil {
		return fmt.Errorf("sethostname %q: %w", name, err)
	}
	return nil
}

// groups makes the groups of the config.
func (m *Machine) groups(ctx context.Context, groups []types.PasswdGroup) error {
	for _, g := range groups {
		if id, err := m.lookups.group(g.Name); err == nil {
			if g.Gid != nil && *g.Gid != id {
				return fmt.Errorf("group %s exists with gid %d, the config says %d", g.Name, id, *g.Gid)
			}
			continue
		}
		argv := []string{"groupadd"}
		if g.Gid != nil {
			argv = append(argv, "--gid", fmt.Sprint(*g.Gid))
		}
		if isTrue(g.System) {
			argv = append(argv, "--system")
		}
		if _, err := m.run(ctx, nil, append(argv, g.Name)...); err != nil {
			return err
		}
	}
	return nil
}

// units writes, enables, masks and starts the config's systemd units.
func (m *Machine) units(ctx context.Context, units []types.Unit) error {
	const dir = "etc/systemd/system/"
	for _, u := range units {
		if u.Contents != nil && *u.Contents != "" {
			if _, err := writeFile(m.root, dir+u.Name, []byte(*u.Contents), 0o644, 0, 0); err != nil {
				return err
			}
		}
		for _, d := range u.Dropins {
			if d.Contents != nil {
				if _, err := writeFile(m.root, dir+u.Name+".d/"+d.Name, []byte(*d.Contents), 0o644, 0, 0); err != nil {
					return err
				}
			}
		}
	}
	if len(units) == 0 {
		return nil
	}
	// Each reload runs every generator, so there is one, after all links are made.
	for _, u := range units {
		var verbs []string
		if u.Mask != nil {
			verbs = append(verbs, map[bool]string{true: "mask", false: "unmask"}[*u.Mask])
		}
		if u.Enabled != nil {
			verbs = append(verbs, map[bool]string{true: "enable", false: "disable"}[*u.Enabled])
		}
		for _, verb := range verbs {
			if _, err := m.run(ctx, nil, "systemctl", "--no-reload", verb, u.Name); err != nil {
				return err
			}
		}
	}
	if _, err := m.run(ctx, nil, "systemctl", "daemon-reload"); err != nil {
		return err
	}
	for _, u := range units {
		// Without --no-block systemctl would wait for units that come after this one.
		if isTrue(u.Enabled) && !isTrue(u.Mask) {
			if _, err := m.run(ctx, nil, "systemctl", "--no-block", "start", u.Name); err != nil {
				return err
			}
		} else if isTrue(u.Mask) {
			if _, err := m.run(ctx, nil, "systemctl", "--no-block", "stop", u.Name); err != nil {
				return err
			}
		}
	}
	return nil
}
