package proof

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"ward/builder/vm"
	"ward/profiles"
	"ward/profiles/control"
)

// An attempt is one try to log in from outside, and what must come of it.
type attempt struct {
	name string // what the finding is called
	user string
	auth []ssh.AuthMethod
	want string
}

// What can come of an attempt.
const (
	gotIn   = "in"
	refused = "refused"
	cut     = "cut off"
	// notOffered: the server never let the client try that method.
	notOffered = "refused, not even offered"
)

// outside is what the SSH server does to people who come from outside.
func outside(f *Fixture, p *profiles.Profile) ([]attempt, error) {
	tries := p.Controls.SSHD.MaxAuthTries
	// wrong makes n keys that nobody knows, and then those given.
	wrong := func(n int, then ...ssh.Signer) (ssh.AuthMethod, error) {
		var signers []ssh.Signer
		for range n {
			s, err := newSigner()
			if err != nil {
				return nil, err
			}
			signers = append(signers, s)
		}
		return ssh.PublicKeys(append(signers, then...)...), nil
	}
	stranger, err := wrong(1)
	if err != nil {
		return nil, err
	}
	last, err := wrong(tries-1, f.Admin.Key)
	if err != nil {
		return nil, err
	}
	late, err := wrong(tries, f.Admin.Key)
	if err != nil {
		return nil, err
	}
	keyOf := func(p Person) []ssh.AuthMethod { return []ssh.AuthMethod{ssh.PublicKeys(p.Key)} }
	answers := func(_, _ string, questions []string, _ []bool) ([]string, error) {
		all := make([]string, len(questions))
		for i := range all {
			all[i] = f.Admin.Password
		}
		return all, nil
	}
	return []attempt{
		{"a person of the group, with the right key", f.Admin.Name, keyOf(f.Admin), gotIn},
		{"a second person of the group, with the right key", f.Clerk.Name, keyOf(f.Clerk), gotIn},
		{"a person of the group, with another person's key", f.Clerk.Name, keyOf(f.Admin), refused},
		{"a person of the group, with an unknown key", f.Admin.Name, []ssh.AuthMethod{stranger}, refused},
		{"a person outside the group, with the right key", f.Outsider.Name, keyOf(f.Outsider), refused},
		{"root, with an administrator's key", "root", keyOf(f.Admin), refused},
		{"the service account, with an administrator's key", p.Controls.Accounts.Service, keyOf(f.Admin), refused},
		{"a person of the group, with the right password", f.Admin.Name, []ssh.AuthMethod{ssh.Password(f.Admin.Password), ssh.KeyboardInteractive(answers)}, notOffered},
		{fmt.Sprintf("the right key as attempt %d", tries), f.Admin.Name, []ssh.AuthMethod{last}, gotIn},
		{fmt.Sprintf("the right key as attempt %d", tries+1), f.Admin.Name, []ssh.AuthMethod{late}, cut},
	}, nil
}

// Outside tries every login and returns a finding for each.
func Outside(ctx context.Context, m *vm.VM, f *Fixture, p *profiles.Profile) ([]control.Finding, error) {
	attempts, err := outside(f, p)
	if err != nil {
		return nil, err
	}
	refs := []string{"45 CFR 164.312(d)", "45 CFR 164.312(a)(1)"}
	var findings []control.Finding
	var banner string
	for _, a := range attempts {
		began := time.Now()
		got, err := a.try(ctx, m, &banner)
		if m.Err() != nil {
			return findings, m.Err()
		}
		finding := control.Finding{
			Control: "sshd", Title: "People from outside get in, or not, as the profile says", Setting: "from outside: " + a.name,
			Refs: refs, Want: a.want, Got: got, TookMS: time.Since(began).Milliseconds(),
		}
		finding.Status = judge(finding, err)
		if err != nil {
			finding.Err = firstLine(err)
		}
		findings = append(findings, finding)
	}
	shown := control.Finding{
		Control: "banners", Title: "Who connects is told first whose system it is", Setting: "from outside: text before login",
		Refs: []string{"45 CFR 164.308(a)(5)(ii)(A)"}, Want: strings.TrimSpace(p.Controls.Banners.Login), Got: strings.TrimSpace(banner),
	}
	shown.Status = judge(shown, nil)
	return append(findings, shown), nil
}

func judge(f control.Finding, err error) control.Status {
	switch {
	case err != nil:
		return control.Unknown
	case f.Got == f.Want && f.Want != "":
		return control.Pass
	default:
		return control.Fail
	}
}

// try logs in once. The error is for an outcome that is none of ours.
func (a attempt) try(ctx context.Context, m *vm.VM, banner *string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, m.Timeout(20*time.Second))
	defer cancel()
	client, err := m.SSH(ctx, &ssh.ClientConfig{
		User: a.user, Auth: a.auth,
		// The machine is our own throw-away one, on our own loopback interface.
		HostKeyCallback: ssh.InsecureIgnoreHostKey(),
		BannerCallback:  func(text string) error { *banner = text; return nil },
	})
	if err == nil {
		defer client.Close()
		// A login is one only if a command runs as that user.
		name, err := vm.Command(ctx, client, "", "id -un")
		if err != nil {
			return "", err
		}
		if strings.TrimSpace(name) != a.user {
			return "in as " + strings.TrimSpace(name), nil
		}
		return gotIn, nil
	}
	return outcome(err)
}

// outcome reads what golang.org/x/crypto/ssh says of a refused login.
func outcome(err error) (string, error) {
	text := err.Error()
	switch {
	case strings.Contains(text, "Too many authentication failures"):
		return cut, nil
	case strings.Contains(text, "unable to authenticate, attempted methods [none], no supported methods remain"):
		return notOffered, nil
	case strings.Contains(text, "unable to authenticate, attempted methods [none publickey], no supported methods remain"):
		return refused, nil
	}
	return "", err
}

func firstLine(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line
}

// Login opens a connection as one of the fixture's people, trying until the
// server is there.
func Login(ctx context.Context, m *vm.VM, p Person) (*ssh.Client, error) {
	return m.SSH(ctx, &ssh.ClientConfig{
		User: p.Name, Auth: []ssh.AuthMethod{ssh.PublicKeys(p.Key)}, HostKeyCallback: ssh.InsecureIgnoreHostKey(),
	})
}

// Root opens a shell of root through the administrator's login and sudo. Closing
// the client ends it.
func Root(ctx context.Context, m *vm.VM, f *Fixture) (*vm.RootShell, *ssh.Client, error) {
	client, err := Login(ctx, m, f.Admin)
	if err != nil {
		return nil, nil, err
	}
	shell, err := vm.OpenRootShell(ctx, client, f.Admin.Password)
	if err != nil {
		return nil, nil, errors.Join(err, client.Close())
	}
	return shell, client, nil
}
