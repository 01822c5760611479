package control_test

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ward/images/distro"
	"ward/profiles"
	"ward/profiles/control"
	"ward/profiles/control/controltest"
)

type ctx = context.Context

func hipaa(t *testing.T) *profiles.Profile {
	t.Helper()
	p, err := profiles.Load("hipaa")
	if err != nil {
		t.Fatal(err)
	}
	return p
}

const (
	recovery = `,"1":{"type":"luks2","key_size":64,"area":{"encryption":"aes-xts-plain64","key_size":64},"kdf":{"type":"argon2id"}}`
	sealed   = "head -n 1 /var/lib/ward/escrow/phi-data.age"
	luksJSON = `{"keyslots":{"0":{"type":"luks2","key_size":64,"area":{"encryption":"aes-xts-plain64","key_size":64},"kdf":{"type":"pbkdf2"}}` + recovery + `},` +
		`"segments":{"0":{"type":"crypt","encryption":"aes-xts-plain64"}}}`
	phiUUID   = "bf82d9ce-7549-4d9e-bca3-d62215f78bf4"
	pins      = `{"version":1,"volumes":[{"name":"phi-data","luks_uuid":"` + phiUUID + `","digest":"00000000000000000000000000000000000000000000000000000000000000aa"}]}`
	infoName  = "dmsetup info -c --noheadings -o name phi-data"
	infoUUID  = "dmsetup info -c --noheadings -o uuid phi-data"
	dump      = "cryptsetup luksDump --dump-json-metadata /dev/vda3"
	below     = "blkid -p -o value -s TYPE /dev/vda3"
	mountIs   = "findmnt --noheadings --output SOURCE,FSTYPE,OPTIONS --mountpoint /var/data/phi"
	mountThen = "findmnt --mountpoint /var/data/phi"
	cryptShow = `systemctl show --property=ExecStart systemd-cryptsetup@phi\x2ddata.service`
	cryptUnit = `systemctl show --property=LoadState,ActiveState,SourcePath systemd-cryptsetup@phi\x2ddata.service`
	phiFind   = "find /etc /root /home /boot /usr/lib/ward /usr/local /opt /srv /var/lib /var/backups /var/tmp -xdev -type f -readable ( -size 64c -o ( -size +31c -size -8193c -name *.key ) ) -print0"
	phiTry    = "cryptsetup open --test-passphrase --batch-mode --key-slot 0 --key-file "
)

// What a Debian 12 machine with its volume answers.
var phiGood = controltest.Outputs{
	infoName:                           {Stdout: "phi-data\n"},
	infoUUID:                           {Stdout: "CRYPT-LUKS2-bf82d9ce75494d9ebca3d62215f78bf4-phi-data\n"},
	"dmsetup table phi-data":           {Stdout: "0 1015808 crypt aes-xts-plain64 :64:logon:cryptsetup:" + phiUUID + "-d0 0 254:3 32768\n"},
	"dmsetup deps -o devname phi-data": {Stdout: "1 dependencies\t: (vda3)\n"},
	dump:                               {Stdout: luksJSON},
	below:                              {Stdout: "crypto_LUKS\n"},
	"blkid -p -o value -s TYPE /dev/mapper/phi-data": {Stdout: "ext4\n"},
	mountIs:                                 {Stdout: "/dev/mapper/phi-data ext4 rw,nosuid,nodev,noexec,relatime\n"},
	mountThen:                               {Stdout: "TARGET SOURCE FSTYPE OPTIONS\n"},
	"stat --format %U:%G %a /var/data/phi":  {Stdout: "phi-service:phi-access 750\n"},
	"runuser -u nobody -- ls /var":          {Stdout: "data\n"},
	"runuser -u nobody -- ls /var/data/phi": {Exit: 2},
	cryptShow:                               {Stdout: "ExecStart={ path=/lib/systemd/systemd-cryptsetup ; argv[]=/lib/systemd/systemd-cryptsetup attach phi-data /dev/disk/by-uuid/" + phiUUID + " none luks,noauto ; ignore_errors=no }\n"},
	phiFind:                                 {Stdout: "/etc/some.key\x00"},
	phiTry + "/etc/some.key /dev/vda3":      {Exit: 2},
	cryptUnit:                               {Stdout: "LoadState=loaded\nActiveState=active\nSourcePath=/etc/crypttab\n"},
	"systemctl show --property=LoadState,ActiveState,SourcePath var-data-phi.mount": {Stdout: "LoadState=loaded\nActiveState=active\nSourcePath=/etc/fstab\n"},
	"findmnt --verify --tab-file /etc/fstab":                                        {Stdout: "Success, no errors or warnings detected\n"},
	"cryptsetup luksUUID /dev/vda3":                                                 {Stdout: phiUUID + "\n"},
	sealed:                                                                          {Stdout: "-----BEGIN AGE ENCRYPTED FILE-----\n"},
	"cat /etc/ward/pins.json":                                                       {Stdout: pins},
}

func TestPHI(t *testing.T) {
	p := hipaa(t)
	p.Controls.PHI.Recipients = []string{"age1officer"}
	gone := controltest.Outputs{infoName: {Exit: 1}, mountIs: {Exit: 1}, mountThen: {Exit: 1}}
	broken := []controltest.Break{
		{Name: "a null cipher", Setting: "mapping", Change: controltest.Outputs{"dmsetup table phi-data": {Stdout: "0 1 crypt cipher_null-ecb - 0 254:3 32768\n"}}, Got: "cipher_null-ecb"},
		{Name: "a short key", Setting: "mapping", Change: controltest.Outputs{"dmsetup table phi-data": {Stdout: "0 1 crypt aes-xts-plain64 " + strings.Repeat("0", 64) + " 0 254:3 32768\n"}}, Got: "256 bit key"},
		{Name: "not encrypted at all", Setting: "mapping", Change: controltest.Outputs{"dmsetup table phi-data": {Stdout: "0 1 linear 254:3 0 0 0\n"}, infoUUID: {Stdout: "\n"}}, Got: "linear"},
		{Name: "a weak slot", Setting: "header", Change: controltest.Outputs{dump: {Stdout: strings.Replace(luksJSON, `"area":{"encryption":"aes-xts-plain64"`, `"area":{"encryption":"cipher_null-ecb"`, 1)}}, Got: "slot 0"},
		{Name: "a segment in clear", Setting: "header", Change: controltest.Outputs{dump: {Stdout: strings.Replace(luksJSON, `"type":"crypt"`, `"type":"linear"`, 1)}}, Got: "segment 0"},
		{Name: "a file system on the disk itself", Setting: "below it", Change: controltest.Outputs{below: {Stdout: "ext4\n"}}, Got: "ext4 on the disk"},
		{Name: "exec is allowed", Setting: "mount", Change: controltest.Outputs{mountIs: {Stdout: "/dev/mapper/phi-data ext4 rw,nosuid,nodev\n"}}, Got: "with nodev, nosuid"},
		{Name: "another owner", Setting: "owner and mode", Change: controltest.Outputs{"stat --format %U:%G %a /var/data/phi": {Stdout: "root:root 755\n"}}, Got: "root:root 755"},
		{Name: "open to all", Setting: "strangers", Change: controltest.Outputs{"runuser -u nobody -- ls /var/data/phi": {Stdout: "patient-records\n"}}, Got: "nobody can list"},
		{Name: "the key lies on the machine", Setting: "key not on the machine", Change: controltest.Outputs{phiTry + "/etc/some.key /dev/vda3": {}}, Got: "/etc/some.key opens the volume"},
		{Name: "crypttab names a key", Setting: "key not on the machine", Change: controltest.Outputs{cryptShow: {Stdout: "ExecStart={ argv[]=/lib/systemd/systemd-cryptsetup attach phi-data /dev/vda3 /root/phi.key luks ; }\n"}}, Got: "names the key file /root/phi.key"},
		{Name: "no unit of crypttab", Setting: "crypttab and fstab", Change: controltest.Outputs{cryptUnit: {Stdout: "LoadState=not-found\nActiveState=inactive\nSourcePath=\n"}}, Got: "not-found"},
		{Name: "a broken fstab", Setting: "crypttab and fstab", Change: controltest.Outputs{"findmnt --verify --tab-file /etc/fstab": {Stdout: "1 parse error\n", Exit: 1}}, Got: "1 parse error"},
		{Name: "another volume", Setting: "pin", Change: controltest.Outputs{"cryptsetup luksUUID /dev/vda3": {Stdout: "11111111-7549-4d9e-bca3-d62215f78bf4\n"}}, Got: "pinned is " + phiUUID},
		{Name: "no recovery slot", Setting: "recovery key", Change: controltest.Outputs{dump: {Stdout: strings.Replace(luksJSON, recovery, "", 1)}}, Got: "0 argon2id slots"},
		{Name: "no sealed key", Setting: "recovery key", Change: controltest.Outputs{sealed: {Exit: 1}}, Got: "no sealed key"},
		{Name: "a key in clear", Setting: "recovery key", Change: controltest.Outputs{sealed: {Stdout: "aaaa-bbbb\n"}}, Got: "not kept as an age file"},
		{Name: "no pin", Setting: "pin", Change: controltest.Outputs{"cat /etc/ward/pins.json": {Exit: 1}}, Got: "has pinned no volume"},
	}
	for _, s := range []string{"mapping", "header", "below it", "key not on the machine", "crypttab and fstab", "pin"} {
		broken = append(broken, controltest.Break{Name: "absent", Setting: s, Change: gone, Got: "absent"})
	}
	for _, s := range []string{"mount", "owner and mode", "strangers"} {
		broken = append(broken, controltest.Break{Name: "absent", Setting: s, Change: gone, Got: "is not mounted"})
	}
	for _, r := range distro.All {
		t.Run(r.Name(), func(t *testing.T) {
			controltest.Run(t, controltest.Suite{Control: control.PHI(p, r), Release: r, Profile: p, Good: phiGood, Broken: broken})
		})
	}
}

const (
	records  = "/var/data/phi/patient-records"
	trial    = "/var/data/phi/.ward/lock-trial"
	statusOf = `is encrypted with fscrypt.

Policy:   fb9e0c3c5a7c8d3a1a7e0d1c2b3a4f5e
Options:  padding:32  contents:AES_256_XTS  filenames:AES_256_CTS  policy_version:2
Unlocked: Yes

Protected with 1 protector:
PROTECTOR         LINKED  DESCRIPTION
7626382168311a9d  No      raw key protector "patient-records"
`
)

var fscryptGood = controltest.Outputs{
	mountThen: {Stdout: "TARGET\n"},
	"stat --format %U:%G %a %s bytes /var/data/phi/.ward/fscrypt.key":               {Stdout: "root:root 400 32 bytes\n"},
	"findmnt --noheadings --output SOURCE --target /var/data/phi/.ward/fscrypt.key": {Stdout: "/dev/mapper/phi-data\n"},
	"stat --format %U:%G %a " + records:                                             {Stdout: "phi-service:phi-access 2770\n"},
	"lsattr -d " + records:                                                          {Stdout: "----E---------e------- " + records + "\n"},
	"fscrypt status " + records:                                                     {Stdout: `"` + records + `" ` + statusOf},
}

// The lock is tried on the machine itself, where the answers change with what
// was done before; see TestFscryptLock.
func TestFscrypt(t *testing.T) {
	p := hipaa(t)
	for _, r := range distro.All {
		t.Run(r.Name(), func(t *testing.T) {
			c := control.Fscrypt(p, r)
			c.Settings = c.Settings[:2]
			controltest.Run(t, controltest.Suite{Control: c, Release: r, Profile: p, Good: fscryptGood, Broken: []controltest.Break{
				{Name: "readable", Setting: "key", Change: controltest.Outputs{"stat --format %U:%G %a %s bytes /var/data/phi/.ward/fscrypt.key": {Stdout: "root:root 644 32 bytes\n"}}, Got: "644"},
				{Name: "on the machine's disk", Setting: "key", Change: controltest.Outputs{"findmnt --noheadings --output SOURCE --target /var/data/phi/.ward/fscrypt.key": {Stdout: "/dev/vda2\n"}}, Got: "on /dev/vda2"},
				{Name: "no volume", Setting: "key", Change: controltest.Outputs{mountThen: {Exit: 1}}, Got: "is not mounted"},
				{Name: "not encrypted", Setting: records, Change: controltest.Outputs{"lsattr -d " + records: {Stdout: "--------------e------- " + records + "\n"}}, Got: "not encrypted"},
				{Name: "locked", Setting: records, Change: controltest.Outputs{"fscrypt status " + records: {Stdout: `"x" ` + strings.Replace(statusOf, "Unlocked: Yes", "Unlocked: No", 1)}}, Got: ", locked;"},
				{Name: "half locked", Setting: records, Change: controltest.Outputs{"fscrypt status " + records: {Stdout: `"x" ` + strings.Replace(statusOf, "Unlocked: Yes", "Unlocked: Partially (incompletely locked)", 1)}}, Got: ", locked;"},
				{Name: "another protector", Setting: records, Change: controltest.Outputs{"fscrypt status " + records: {Stdout: `"x" ` + statusOf + "1626382168311a9d  No      custom protector \"x\"\n"}}, Got: "2 protectors"},
				{Name: "gone", Setting: records, Change: controltest.Outputs{"stat --format %U:%G %a " + records: {Exit: 1}}, Got: "there is no"},
			}})
		})
	}
}

// folder acts an encrypted folder that keeps or breaks its promise.
type folder struct {
	unlocked  bool
	content   string
	showNames bool // a locked folder shows names
	showText  bool // and content
	emptyList bool // and lists nothing
}

func (f *folder) machine(t *testing.T, p *profiles.Profile) *control.Machine {
	m := controltest.Outputs{mountThen: {Stdout: "x\n"}, "lsattr -d " + trial: {Stdout: "----E--- x\n"}}.Machine(distro.All[0], p, nil)
	known := m.Run
	m.RunInput = func(_ ctx, stdin string, argv ...string) (string, error) { f.content = stdin; return "", nil }
	m.Run = func(c ctx, argv ...string) (string, error) {
		line := strings.Join(argv, " ")
		file := trial + "/canary"
		no := &controltest.Exit{Argv: argv, Code: 1}
		switch {
		case strings.HasPrefix(line, "fscrypt status"):
			if f.unlocked {
				return `"x" ` + statusOf, nil
			}
			return `"x" ` + strings.Replace(statusOf, "Unlocked: Yes", "Unlocked: No", 1), nil
		case strings.HasPrefix(line, "fscrypt unlock"):
			if f.unlocked {
				return "", no
			}
			f.unlocked = true
			return "", nil
		case strings.HasPrefix(line, "fscrypt lock"):
			f.unlocked = false
			return "", nil
		case strings.HasPrefix(line, "find "), strings.HasPrefix(line, "rm "):
			f.content = ""
			return "", nil
		case strings.HasPrefix(line, "ls "):
			switch {
			case f.emptyList:
				return "", nil
			case f.unlocked || f.showNames:
				return "canary\n", nil
			}
			return "X8g1Nf0r2yQ\n", nil
		case line == "cat "+file && f.unlocked, strings.HasPrefix(line, "cat ") && f.showText:
			return f.content, nil
		case strings.HasPrefix(line, "cat "):
			return "", no
		}
		return known(c, argv...)
	}
	return m
}

func TestFscryptLock(t *testing.T) {
	p := hipaa(t)
	all := control.Fscrypt(p, distro.All[0]).Settings
	s := all[len(all)-1]
	for _, c := range []struct {
		name string
		f    folder
		want string
	}{
		{"good, unlocked before", folder{unlocked: true}, s.Want()},
		{"good, locked before", folder{}, s.Want()},
		{"shows names", folder{unlocked: true, showNames: true}, "a locked folder shows the name canary"},
		{"shows content", folder{unlocked: true, showText: true}, "a file in a locked folder can be read"},
	} {
		got, err := s.Check(t.Context(), c.f.machine(t, p))
		if err != nil || !strings.Contains(got, c.want) {
			t.Errorf("%s: Check() = %q, %v, want %q", c.name, got, err, c.want)
		}
		if !c.f.unlocked || c.f.content != "" {
			t.Errorf("%s: left locked or with the trial's file in it", c.name)
		}
	}
	f := folder{unlocked: true, emptyList: true}
	if got, err := s.Check(t.Context(), f.machine(t, p)); err == nil || !strings.Contains(err.Error(), "lists nothing") {
		t.Errorf("an empty list: Check() = %q, %v, want unknown because it lists nothing", got, err)
	}
}

// TestFscryptOnVerifiedRoot: nothing can be made in / later.
func TestFscryptOnVerifiedRoot(t *testing.T) {
	p := hipaa(t)
	p.Controls.Integrity.Root = profiles.RootVerity
	dir := t.TempDir()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	c := control.Fscrypt(p, distro.All[0])
	if err := control.Apply(t.Context(), c, &control.Target{Phase: control.Bake, Root: root, Profile: p, Release: distro.All[0], Log: slog.New(slog.DiscardHandler)}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"policies", "protectors"} {
		if info, err := os.Stat(filepath.Join(dir, ".fscrypt", name)); err != nil || info.Mode().Perm() != 0o755 {
			t.Errorf("/.fscrypt/%s: %v, %v, want a folder with mode 0755", name, info, err)
		}
	}
}
