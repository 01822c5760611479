package control

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strings"
)

// confined is what mandatory access control has to be: the distribution's, enforced.
const confined = "enforced, and what it is about is under it"

// Questions to the kernel about its mandatory access control. What is not there, or
// gone meanwhile, prints nothing.
var confineScripts = map[string]string{
	// Each profile with its mode and the program it is for (kernel,
	// security/apparmor/apparmorfs.c), each process with its program and its profile
	// (proc_pid_attr(5)).
	"apparmor": `grep -H . /sys/module/apparmor/parameters/enabled
grep -sH . /sys/kernel/security/apparmor/policy/profiles/*/mode /sys/kernel/security/apparmor/policy/profiles/*/attach
grep -sHm1 . /proc/[0-9]*/attr/current | tr -d '\000'
ls -l /proc/[0-9]*/exe 2>/dev/null | sed -n 's,.* \(/proc/[0-9]*/exe\) -> ,\1:,p'
exit 0`,
	// selinuxfs (kernel, security/selinux/selinuxfs.c), and the domain of the first
	// process, which tells whether a policy was loaded and the files have labels.
	"selinux": `grep -sH . /sys/fs/selinux/enforce
grep -sHm1 . /proc/1/attr/current | tr -d '\000'
exit 0`,
}

var confineChecks = map[string]func(answers map[string]string) string{"apparmor": apparmor, "selinux": selinux}

func checkConfined(ctx context.Context, m *Machine) (string, error) {
	name := m.Release.MAC
	check, ok := confineChecks[name]
	if !ok {
		return "", fmt.Errorf("release %s has mandatory access control %q, which is not known", m.Release.Name(), name)
	}
	out, err := script(ctx, m, name, confineScripts[name])
	if err != nil {
		return "", err
	}
	answers := map[string]string{}
	for line := range strings.Lines(out) {
		if file, text, ok := strings.Cut(strings.TrimSuffix(line, "\n"), ":"); ok {
			answers[file] = strings.TrimSpace(text)
		}
	}
	return check(answers), nil
}

// apparmor finds running programs that have an enforced profile and are not under it,
// such as one that was started before its profile was loaded.
func apparmor(answers map[string]string) string {
	if answers["/sys/module/apparmor/parameters/enabled"] != "Y" {
		return "AppArmor is off"
	}
	programs := map[string]bool{}
	for file, mode := range answers {
		if path.Base(file) == "mode" && mode == "enforce" {
			programs[answers[path.Join(path.Dir(file), "attach")]] = true
		}
	}
	if len(programs) == 0 {
		return "AppArmor enforces no profile"
	}
	var faults []string
	for file, profile := range answers {
		if exe := answers[path.Join(path.Dir(path.Dir(file)), "exe")]; path.Base(file) == "current" && profile == "unconfined" && programs[exe] {
			faults = append(faults, exe+" has a profile and runs without")
		}
	}
	slices.Sort(faults)
	return orFaults(slices.Compact(faults), confined)
}

// selinux reads the mode and the first process's domain, which without a policy, or
// with files that have no labels, is the kernel's own.
func selinux(answers map[string]string) string {
	switch answers["/sys/fs/selinux/enforce"] {
	case "":
		return "SELinux is off"
	case "1":
	default:
		return "SELinux is permissive"
	}
	context := answers["/proc/1/attr/current"]
	if f := strings.Split(context, ":"); len(f) < 3 || f[2] != "init_t" {
		return fmt.Sprintf("the first process runs as %q, not in a domain of its own", context)
	}
	return confined
}
