package firstboot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"runtime"
	"time"

	"ward/images/arch"
	"ward/images/distro"
	"ward/initramfs/handoff"
	"ward/profiles"
	"ward/profiles/control"
	"ward/profiles/machine"
)

// Machine is the running machine that wardctl works on.
type Machine struct {
	root    *os.Root
	log     *slog.Logger
	run     RunFunc
	key     KeyFunc
	tpm     TPMFunc
	now     func() time.Time
	console io.Writer
	lookups lookups
	facts   *facts
	arch    arch.Arch
}

// Open reads what the image says of itself below dir, which is "/" but in tests.
func Open(dir string, log *slog.Logger) (*Machine, error) {
	processor, err := arch.Find(runtime.GOARCH)
	if err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	f, err := readFacts(root)
	if err != nil {
		return nil, errors.Join(err, root.Close())
	}
	m := &Machine{root: root, log: log, run: hostRun(log), tpm: hostTPM, now: time.Now, console: io.Discard, lookups: hostLookups(), facts: f, arch: processor}
	m.key = hostKey(log, m.run)
	return m, nil
}

// Close gives the root back.
func (m *Machine) Close() error { return m.root.Close() }

// SetConsole lets apply and verify say their one line to a person at the console.
func (m *Machine) SetConsole(w io.Writer) { m.console = w }

// Facts returns what the machine knows of its image.
func (m *Machine) Facts() ImageFacts { return m.facts.Image }

// volumes are the machine's PHI volumes.
func (m *Machine) volumes() []handoff.Volume {
	if v := m.facts.Image.Init.Volumes; len(v) > 0 {
		return v
	}
	return m.facts.Profile.Controls.PHI.Handoff()
}

func (m *Machine) mounts() []string {
	var dirs []string
	for _, v := range m.volumes() {
		dirs = append(dirs, v.Mount)
	}
	return dirs
}

// machineFile reads the machine's own copy of its machine file; a machine that
// was never configured has none.
func (m *Machine) machineFile() (*machine.Machine, error) {
	b, err := m.root.ReadFile(clean(machine.Path))
	if errors.Is(err, fs.ErrNotExist) {
		return &machine.Machine{}, nil
	} else if err != nil {
		return nil, err
	}
	var c machine.Machine
	return &c, decodeStrict(clean(machine.Path), b, &c)
}

// target is the machine for the settings of controls.
func (m *Machine) target(c *machine.Machine) *control.Target {
	return &control.Target{
		Phase: control.FirstBoot, Root: m.root, Release: m.facts.Release, Arch: m.arch, Profile: &m.facts.Profile, Machine: c, Log: m.log,
		Run: func(ctx context.Context, argv ...string) (string, error) { return m.run(ctx, nil, argv...) },
		RunInput: func(ctx context.Context, stdin string, argv ...string) (string, error) {
			return m.run(ctx, []byte(stdin), argv...)
		},
	}
}

// subject is the machine for the checks of controls.
func (m *Machine) subject(c *machine.Machine) *control.Machine {
	return &control.Machine{
		Release: m.facts.Release, Arch: m.arch, Profile: &m.facts.Profile, Config: c,
		Run: func(ctx context.Context, argv ...string) (string, error) { return m.run(ctx, nil, argv...) },
		RunInput: func(ctx context.Context, stdin string, argv ...string) (string, error) {
			return m.run(ctx, []byte(stdin), argv...)
		},
	}
}

// report reads what init left; nil when it left nothing.
func (m *Machine) report() (*handoff.Report, error) {
	b, err := m.root.ReadFile(clean(handoff.ReportPath))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	r, err := handoff.DecodeReport(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", handoff.ReportPath, err)
	}
	return &r, nil
}

func (m *Machine) pins() (handoff.Pins, error) {
	b, err := m.root.ReadFile(clean(handoff.PinsPath))
	if errors.Is(err, fs.ErrNotExist) {
		return handoff.Pins{Version: handoff.Version}, nil
	} else if err != nil {
		return handoff.Pins{}, err
	}
	return handoff.DecodePins(b)
}

// Recipients are the officers of the profile, as age recipients.
func (m *Machine) Recipients() []string { return m.facts.Profile.Controls.PHI.Recipients }

// PHI are the mount points of the PHI volumes.
func (m *Machine) PHI() []string { return m.mounts() }

// Run executes a program on the machine.
func (m *Machine) Run(ctx context.Context, argv ...string) (string, error) {
	return m.run(ctx, nil, argv...)
}

// Release is the distribution's release that the machine runs.
func (m *Machine) Release() distro.Release { return m.facts.Release }

// Profile is what must hold here.
func (m *Machine) Profile() *profiles.Profile { return &m.facts.Profile }
