// Package control declares every safeguard once, as a Go value with four
// readers: the builder applies it to the image tree, wardctl apply to the
// machine, wardctl verify asks the running system whether it holds, and the
// evidence prints it. A control's parameters come from the profile.
package control

import (
	"context"
	"fmt"
	"log/slog"
	"os"

	"ward/images/arch"
	"ward/images/distro"
	"ward/profiles"
	"ward/profiles/machine"
)

// Control is one safeguard.
type Control struct {
	ID       string   // "sshd": names its drop-ins, its step and its findings
	Title    string   // what holds, as a sentence
	Why      string   // what goes wrong without it
	Refs     []string // "45 CFR 164.312(d)"; where it fits "NIST 800-53 AC-7", "CIS Debian 12 5.1.20"
	Settings []Setting
}

// Setting is one part of a control that can be made so and looked at.
type Setting interface {
	// Name is unique in its control: "PermitRootLogin".
	Name() string
	// Apply makes it so; running it again changes nothing. It is called at bake
	// (Target.Phase Bake) and at first boot; a setting that belongs to one phase
	// returns nil in the other.
	Apply(context.Context, *Target) error
	// Want is what Check returns when all is well.
	Want() string
	// Check asks the running system, never a file that ward wrote. An error
	// means that it could not look: unknown, never a pass.
	Check(context.Context, *Machine) (got string, err error)
}

// Phase is when a control is applied.
type Phase int

const (
	Bake      Phase = iota + 1 // into the image's tree, by the builder; no running system
	FirstBoot                  // on the machine, by wardctl apply
)

// Target is what a setting is applied to.
type Target struct {
	Phase   Phase
	Root    *os.Root // the image's tree or the machine's /
	Release distro.Release
	Arch    arch.Arch
	Profile *profiles.Profile
	Machine *machine.Machine // nil at bake
	Log     *slog.Logger
	// Run executes a program inside the target (chroot at bake) and returns its
	// standard output; the error has the quoted argv and the end of stderr.
	Run func(ctx context.Context, argv ...string) (stdout string, err error)
	// RunInput is Run with standard input, for what must not be an argument, such
	// as a password's hash. Needed at first boot; may be nil at bake.
	RunInput func(ctx context.Context, stdin string, argv ...string) (stdout string, err error)
}

// Machine is the running system that a check looks at.
type Machine struct {
	Release distro.Release
	Arch    arch.Arch
	Profile *profiles.Profile
	Config  *machine.Machine
	// Run executes a program and returns its standard output, also when it fails;
	// the error of a program that ended with another status than 0 wraps an
	// *exec.ExitError.
	Run func(ctx context.Context, argv ...string) (stdout string, err error)
	// RunInput is Run with standard input.
	RunInput func(ctx context.Context, stdin string, argv ...string) (stdout string, err error)
}

// Status is the outcome of a check. The zero value is not Pass.
type Status int

const (
	Unknown Status = iota // could not look
	Pass
	Fail
	Waived // failed or unknown, and the profile has a valid waiver
)

var statusNames = [...]string{"unknown", "pass", "fail", "waived"}

func (s Status) String() string {
	if s < 0 || int(s) >= len(statusNames) {
		return fmt.Sprintf("status(%d)", int(s))
	}
	return statusNames[s]
}

// MarshalText writes "pass" and the like.
func (s Status) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads what MarshalText writes and refuses everything else.
func (s *Status) UnmarshalText(text []byte) error {
	for i, name := range statusNames {
		if name == string(text) {
			*s = Status(i)
			return nil
		}
	}
	return fmt.Errorf("%q is not a status", text)
}

// Finding is what one check of one setting found.
type Finding struct {
	Control string           `json:"control"`
	Title   string           `json:"title"`
	Setting string           `json:"setting"`
	Refs    []string         `json:"refs"`
	Status  Status           `json:"status"`
	Want    string           `json:"want"`
	Got     string           `json:"got"`
	Err     string           `json:"error,omitempty"`
	Waiver  *profiles.Waiver `json:"waiver,omitempty"`
	TookMS  int64            `json:"took_ms"`
}
