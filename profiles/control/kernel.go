package control

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	"ward/images/distro"
	"ward/profiles"
)

// Kernel closes what the kernel and the system offer and nobody here needs.
func Kernel(p *profiles.Profile, r distro.Release) Control {
	k := p.Controls.Kernel
	return Control{
		ID:    "kernel",
		Title: "the kernel and the system offer no more than the machine needs",
		Why:   "What is loaded, listens or runs with another's rights can be attacked, needed or not.",
		Refs: []string{
			"45 CFR 164.308(a)(1)(ii)(B)", "45 CFR 164.312(a)(1)", "45 CFR 164.310(d)(1)",
			"NIST 800-53 CM-7", "NIST 800-53 SI-16", "NIST 800-53 AC-6", "NIST 800-53 AC-3",
		},
		Settings: []Setting{
			drop{
				name: "sysctl", path: "etc/sysctl.d/99-ward-kernel.conf", content: sysctlFile(k.Sysctl),
				after: func(ctx context.Context, t *Target) error {
					if t.Phase == Bake {
						return nil // systemd-sysctl.service reads the file at each boot
					}
					_, err := t.Run(ctx, "sysctl", "--quiet", "--load", "/etc/sysctl.d/99-ward-kernel.conf")
					return err
				},
				want:  sysctlWant(k.Sysctl),
				check: func(ctx context.Context, m *Machine) (string, error) { return checkSysctl(ctx, m, k.Sysctl) },
			},
			drop{
				name: "modules", path: "etc/modprobe.d/ward-kernel.conf", content: modprobeFile(deniedModules(k)),
				want:  "none can be loaded",
				check: func(ctx context.Context, m *Machine) (string, error) { return checkModules(ctx, m, deniedModules(k)) },
			},
			setting{name: "core dumps", apply: applyNoCore, want: noCore, check: checkNoCore},
			setting{name: "set-user programs", apply: applyPrivileged, want: "only allowed ones", check: checkAllowedPrivileged},
			setting{name: "unneeded units", apply: maskUnits, want: "none can start", check: checkMasked},
			drop{
				name: "listening", path: "etc/systemd/resolved.conf.d/ward-kernel.conf",
				// Both answer anybody on the local network, and believe anybody.
				content: "# ward: kernel\n[Resolve]\nLLMNR=no\nMulticastDNS=no\n",
				want:    "only allowed sockets",
				check:   func(ctx context.Context, m *Machine) (string, error) { return checkListening(ctx, m, k.Listen) },
			},
			setting{name: "mandatory access control", want: confined, check: checkConfined},
		},
	}
}

func sysctlFile(values map[string]string) string {
	var b strings.Builder
	b.WriteString("# ward: kernel\n")
	for _, key := range slices.Sorted(maps.Keys(values)) {
		fmt.Fprintf(&b, "%s = %s\n", key, values[key])
	}
	return b.String()
}

func sysctlWant(values map[string]string) string {
	var all []string
	for _, key := range slices.Sorted(maps.Keys(values)) {
		all = append(all, key+"="+values[key])
	}
	return strings.Join(all, " ")
}

// checkSysctl asks the kernel for each value.
func checkSysctl(ctx context.Context, m *Machine, values map[string]string) (string, error) {
	keys := slices.Sorted(maps.Keys(values))
	// A key that the kernel does not have makes sysctl fail, and it still prints the others.
	out, err := m.Run(ctx, append([]string{"sysctl"}, keys...)...)
	if err != nil && strings.TrimSpace(out) == "" {
		return "", err
	}
	got := make(map[string]string)
	for line := range strings.Lines(out) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), " = "); ok {
			got[key] = strings.Join(strings.Fields(value), " ")
		}
	}
	var all []string
	for _, key := range keys {
		value, ok := got[key]
		if !ok {
			value = "(not there)"
		}
		all = append(all, key+"="+value)
	}
	return strings.Join(all, " "), nil
}

// deniedModules are the profile's, and those of USB storage.
func deniedModules(k profiles.Kernel) []string {
	all := slices.Clone(k.DenyModules)
	if !k.USBStorage {
		all = append(all, "usb-storage", "uas")
	}
	return all
}

// modprobeFile denies modules: blacklist alone hides only their aliases, and a
// modprobe by name still loads them (modprobe.d(5)).
func modprobeFile(modules []string) string {
	var b strings.Builder
	b.WriteString("# ward: kernel\n")
	for _, name := range modules {
		fmt.Fprintf(&b, "install %s /bin/false\nblacklist %s\n", name, name)
	}
	return b.String()
}

// modprobeDry prints what modprobe would do for each module.
const modprobeDry = `cat /proc/modules | cut -d" " -f1 | sed "s/^/loaded /"; for m; do echo "module $m"; modprobe --dry-run --verbose "$m" 2>/dev/null; done; exit 0`

func checkModules(ctx context.Context, m *Machine, modules []string) (string, error) {
	out, err := script(ctx, m, "modprobe", modprobeDry, modules...)
	if err != nil {
		return "", err
	}
	var faults []string
	var current string
	seen := 0
	for line := range strings.Lines(out) {
		f := strings.Fields(line)
		switch {
		case len(f) < 2:
		case f[0] == "loaded":
			if slices.ContainsFunc(modules, func(n string) bool { return strings.ReplaceAll(n, "-", "_") == f[1] }) {
				faults = append(faults, f[1]+" is loaded")
			}
		case f[0] == "module":
			current = f[1]
			seen++
		case f[0] == "insmod" && moduleName(f[1]) == strings.ReplaceAll(current, "-", "_"):
			// What it depends on is listed too, and may be loaded by others.
			faults = append(faults, current+" can be loaded")
		}
	}
	if seen != len(modules) {
		return "", fmt.Errorf("asked modprobe for %d modules and got %d answers", len(modules), seen)
	}
	return orFaults(faults, "none can be loaded"), nil
}

// moduleName is the kernel's name of a module file: without .ko, .ko.xz, .ko.zst.
func moduleName(file string) string {
	base, _, _ := strings.Cut(path.Base(file), ".ko")
	return strings.ReplaceAll(base, "-", "_")
}

const noCore = "a crashed process leaves no core"

// applyNoCore keeps the memory of a crashed process, PHI and keys included, off
// the disk. core_pattern is what counts for root, who may raise his limit.
func applyNoCore(_ context.Context, t *Target) error {
	return errors.Join(
		writeFile(t.Root, "etc/sysctl.d/99-ward-kernel-core.conf", "# ward: kernel\nkernel.core_pattern = |/bin/false\nkernel.core_uses_pid = 0\n", 0o644),
		writeFile(t.Root, "etc/security/limits.d/99-ward-kernel.conf", "# ward: kernel\n* hard core 0\nroot hard core 0\n", 0o644),
		writeFile(t.Root, "etc/systemd/system.conf.d/99-ward-kernel.conf", "# ward: kernel\n[Manager]\nDefaultLimitCORE=0\n", 0o644),
		writeFile(t.Root, "etc/systemd/coredump.conf.d/99-ward-kernel.conf", "# ward: kernel\n[Coredump]\nStorage=none\nProcessSizeMax=0\n", 0o644),
	)
}

// crash lets a process crash that has raised its limit and stands in a folder it
// may write to, and lists what it left. 139 is the shell's word for SIGSEGV.
const crash = `d=$(mktemp -d /var/tmp/ward-core-XXXXXX) && cd "$d" || exit 1
before=$(ls -A /var/lib/systemd/coredump 2>/dev/null | wc -l)
( ulimit -c unlimited; exec sh -c 'kill -SEGV $$' ) 2>/dev/null
echo "status $?"
sleep 0.2
ls -A
after=$(ls -A /var/lib/systemd/coredump 2>/dev/null | wc -l)
[ "$before" = "$after" ] || echo "file in /var/lib/systemd/coredump"
cd / && rm -r "$d"`

func checkNoCore(ctx context.Context, m *Machine) (string, error) {
	out, err := script(ctx, m, "crash", crash)
	if err != nil {
		return "", err
	}
	first, left, _ := strings.Cut(strings.TrimSpace(out), "\n")
	if first != "status 139" {
		return "", fmt.Errorf("the process did not crash: %q", first)
	}
	if left = strings.TrimSpace(left); left != "" {
		return "it left " + strings.ReplaceAll(left, "\n", ", "), nil
	}
	return noCore, nil
}

// allowedPrivileged are the set-user and set-group programs that stay, and why.
var allowedPrivileged = map[string]string{
	"/usr/bin/sudo":         "people act as root under their own name",
	"/usr/bin/su":           "a person checks another's password, and PAM's rules with it",
	"/usr/bin/passwd":       "people change their own password, which they have to",
	"/usr/sbin/unix_chkpwd": "PAM checks the password of the calling user",
	"/usr/lib/dbus-1.0/dbus-daemon-launch-helper":   "D-Bus starts system services",
	"/usr/libexec/dbus-1/dbus-daemon-launch-helper": "the same, on rpm releases",
}

// applyPrivileged takes the bit from every other program, by dpkg-statoverride(1)
// where there is dpkg, so that an update does not bring it back.
func applyPrivileged(ctx context.Context, t *Target) error {
	if t.Phase != Bake {
		return nil
	}
	programs, err := privileged(t.Root.FS())
	if err != nil {
		return err
	}
	for _, p := range programs {
		if _, ok := allowedPrivileged[p]; ok {
			continue
		}
		if t.Release.Format == "deb" {
			if _, err := t.Run(ctx, "sh", "-c", `dpkg-statoverride --list "$1" >/dev/null || dpkg-statoverride --add root root 0755 "$1"`, "statoverride", p); err != nil {
				return err
			}
		}
		name := strings.TrimPrefix(p, "/")
		info, err := t.Root.Lstat(name)
		if err != nil {
			return fmt.Errorf("look at %s: %w", name, err)
		}
		if err := t.Root.Chmod(name, info.Mode()&^(fs.ModeSetuid|fs.ModeSetgid)); err != nil {
			return fmt.Errorf("take the set-user bit from %s: %w", name, err)
		}
	}
	return nil
}

func checkAllowedPrivileged(ctx context.Context, m *Machine) (string, error) {
	programs, err := findPrivileged(ctx, m)
	if err != nil {
		return "", err
	}
	var faults []string
	for _, p := range programs {
		if _, ok := allowedPrivileged[p]; !ok {
			faults = append(faults, p)
		}
	}
	return orFaults(faults, "only allowed ones"), nil
}

// unneededUnits must not start on a machine with PHI, installed or not: a mask
// holds for a package that comes later too. e2scrub works on LVM alone, which is not there.
var unneededUnits = []string{
	"autofs.service", "avahi-daemon.service", "avahi-daemon.socket", "bluetooth.service", "cups.service", "cups.socket",
	"ctrl-alt-del.target", "debug-shell.service", "e2scrub_all.timer", "e2scrub_reap.service", "kdump.service", "kdump-tools.service", "nfs-server.service",
	"rlogin.socket", "rpcbind.service", "rpcbind.socket", "rsh.socket", "telnet.socket", "tftp.socket", "vsftpd.service", "xinetd.service",
}

func maskUnits(_ context.Context, t *Target) error {
	if t.Phase != Bake {
		return nil
	}
	for _, u := range unneededUnits {
		name := "etc/systemd/system/" + u
		if to, err := t.Root.Readlink(name); err == nil && to == "/dev/null" {
			continue
		}
		if err := removeFile(t.Root, name); err != nil {
			return err
		}
		if err := t.Root.MkdirAll("etc/systemd/system", 0o755); err != nil {
			return fmt.Errorf("mask %s: %w", u, err)
		}
		if err := t.Root.Symlink("/dev/null", name); err != nil {
			return fmt.Errorf("mask %s: %w", u, err)
		}
	}
	return nil
}

func checkMasked(ctx context.Context, m *Machine) (string, error) {
	out, err := m.Run(ctx, append([]string{"systemctl", "show", "--property=Id,LoadState,ActiveState"}, unneededUnits...)...)
	if err != nil {
		return "", err
	}
	var faults []string
	seen := 0
	for block := range strings.SplitSeq(strings.TrimSpace(out), "\n\n") {
		p := properties(block)
		if p["Id"] == "" {
			continue
		}
		seen++
		if p["LoadState"] != "masked" || p["ActiveState"] != "inactive" {
			faults = append(faults, fmt.Sprintf("%s is %s, %s", p["Id"], p["LoadState"], p["ActiveState"]))
		}
	}
	if seen != len(unneededUnits) {
		return "", fmt.Errorf("asked systemd for %d units and got %d answers", len(unneededUnits), seen)
	}
	return orFaults(faults, "none can start"), nil
}
