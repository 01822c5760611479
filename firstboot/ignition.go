package firstboot

import (
	"errors"
	"fmt"
	"net/url"
	"path"
	"slices"
	"strings"

	ign "github.com/coreos/ignition/v2/config/v3_5"
	"github.com/coreos/ignition/v2/config/v3_5/types"

	"ward/profiles/machine"
)

// maxConfig is the most that is read of a config: files in it are data: URLs.
const maxConfig = 16 << 20

// Config is an Ignition config that ward can carry out whole.
type Config struct {
	ign     types.Config
	raw     []byte
	Machine machine.Machine // who the machine is: its machine file, and the config's users
}

// ParseConfig reads an Ignition config of version 3.0 to 3.5 and returns every
// fault at once: what Ignition itself finds wrong, keys that it does not know,
// and what ward does not do, by name. Nothing is changed by it.
// The format: https://coreos.github.io/ignition/configuration-v3_5/
func ParseConfig(raw []byte, mounts []string) (*Config, error) {
	if len(raw) > maxConfig {
		return nil, fmt.Errorf("config: %d bytes are more than %d", len(raw), maxConfig)
	}
	c, report, err := ign.ParseCompatibleVersion(raw)
	var errs []error
	for _, e := range report.Entries {
		// Ignition only warns of keys that it does not know; a misspelt key is a
		// safeguard that silently does not exist.
		if e.Kind.IsFatal() || strings.Contains(strings.ToLower(e.Message), "unused key") {
			errs = append(errs, fmt.Errorf("config: %s", strings.TrimSpace(e.String())))
		}
	}
	if err != nil && len(errs) == 0 {
		errs = append(errs, fmt.Errorf("config: %w", err))
	}
	if err == nil {
		errs = append(errs, refuse(c, mounts)...)
	}
	config := &Config{ign: c, raw: raw}
	if err == nil {
		m, faults := config.machine()
		config.Machine = m
		errs = append(errs, faults...)
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return config, nil
}

// refuse names everything in c that ward does not do.
func refuse(c types.Config, mounts []string) []error {
	var errs []error
	no := func(at, why string) { errs = append(errs, fmt.Errorf("config: %s: %s", at, why)) }
	const byImage = "not supported: disks and file systems are decided by the image"
	for at, n := range map[string]int{
		"storage.disks": len(c.Storage.Disks), "storage.raid": len(c.Storage.Raid),
		"storage.filesystems": len(c.Storage.Filesystems), "storage.luks": len(c.Storage.Luks),
		"kernelArguments": len(c.KernelArguments.ShouldExist) + len(c.KernelArguments.ShouldNotExist),
	} {
		if n > 0 {
			no(at, byImage)
		}
	}
	if len(c.Ignition.Config.Merge) > 0 {
		no("ignition.config.merge", "not supported: write one config")
	}
	if c.Ignition.Config.Replace.Source != nil {
		no("ignition.config.replace", "not supported: write one config")
	}
	if p := c.Ignition.Proxy; p.HTTPProxy != nil || p.HTTPSProxy != nil || len(p.NoProxy) > 0 {
		no("ignition.proxy", "not supported")
	}
	for i, ca := range c.Ignition.Security.TLS.CertificateAuthorities {
		errs = append(errs, refuseResource(fmt.Sprintf("ignition.security.tls.certificateAuthorities[%d]", i), ca, "data")...)
	}
	for i, d := range c.Storage.Directories {
		errs = append(errs, refusePath(fmt.Sprintf("storage.directories[%d].path", i), d.Path, mounts)...)
	}
	for i, f := range c.Storage.Files {
		at := fmt.Sprintf("storage.files[%d]", i)
		errs = append(errs, refusePath(at+".path", f.Path, mounts)...)
		errs = append(errs, refuseResource(at+".contents", f.Contents, "data", "https")...)
		if len(f.Append) > 0 {
			no(at+".append", "not supported: a machine that is configured again would append again")
		}
	}
	for i, l := range c.Storage.Links {
		errs = append(errs, refusePath(fmt.Sprintf("storage.links[%d].path", i), l.Path, mounts)...)
	}
	for i, u := range c.Systemd.Units {
		if strings.HasPrefix(u.Name, "ward-") {
			no(fmt.Sprintf("systemd.units[%d]", i), u.Name+" is ward's own")
		}
	}
	for i, g := range c.Passwd.Groups {
		at := fmt.Sprintf("passwd.groups[%d]", i)
		if g.PasswordHash != nil {
			no(at+".passwordHash", "not supported: a group password is shared")
		}
		if g.ShouldExist != nil && !*g.ShouldExist {
			no(at+".shouldExist", "not supported: groups are not removed")
		}
	}
	slices.SortFunc(errs, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return errs
}

// refusePath refuses a node where ward, the kernel or the PHI volume is master.
func refusePath(at, p string, mounts []string) []error {
	for _, dir := range slices.Concat([]string{"/proc", "/sys", "/dev", "/run", "/tmp", "/" + StateDir, "/" + LibDir}, mounts) {
		if p == dir || strings.HasPrefix(path.Clean(p), dir+"/") {
			return []error{fmt.Errorf("config: %s: %s is below %s, which a config cannot fill", at, p, dir)}
		}
	}
	return nil
}

// refuseResource refuses sources that ward does not read.
func refuseResource(at string, r types.Resource, schemes ...string) []error {
	if r.Source == nil || *r.Source == "" {
		return nil
	}
	u, err := url.Parse(*r.Source)
	if err != nil {
		return []error{fmt.Errorf("config: %s.source: not a URL", at)}
	}
	if !slices.Contains(schemes, u.Scheme) {
		return []error{fmt.Errorf("config: %s.source: scheme %q is not supported; write %s", at, u.Scheme, strings.Join(schemes, " or "))}
	}
	return nil
}
