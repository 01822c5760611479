// Package pxe exports an image for installation over the network, and serves it
// in a laboratory: proxy DHCP, TFTP and HTTP for the first stage, HTTPS for what
// counts.
//
//	err := pxe.Export(ctx, pxe.Options{Image: "out/debian-12", Output: "out/pxe", ...})
//	s, err := pxe.Serve(ctx, pxe.Service{Dir: "out/pxe", Address: "127.0.0.1", ...})
//
// The installing machine trusts what is in its initramfs: one authority for the
// connection, one key for the manifest. How the initramfs itself gets there is
// what firmware and iPXE offer; where the network between is not trusted, Secure
// Boot or a medium must vouch for it.
package pxe

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	diskfs "github.com/diskfs/go-diskfs"
	"github.com/diskfs/go-diskfs/partition/gpt"
	"golang.org/x/sys/unix"

	"ward/builder"
	"ward/builder/command"
	"ward/initramfs"
	"ward/initramfs/handoff"
	"ward/initramfs/netimage"
)

// Options say what to export.
type Options struct {
	Image   string // folder that ward build made
	Output  string // folder to write; it must not exist
	Init    string // the ward-netboot binary
	Secret  string // file of the signing key
	CA      string // file of the authority that the installing machine trusts
	URL     string // where the set will be served; empty: the kernel line says it
	Target  string // rule for the disk, see netimage.ParseRule; empty: blank
	Modules []string
	// Machines are WHO=CONFIG[@RULE], where WHO is a MAC address or serial:S.
	Machines []string
	// Live exports a set that is not installed: root is loaded into memory, and only
	// patients' data are on a disk.
	Live bool
	// Append are words added to the kernel line.
	Append []string
	Log    *slog.Logger
	Say    func(format string, a ...any)
}

// Files of an export beside those of package netimage.
const (
	KernelFile = "vmlinuz"
	InitrdFile = "initramfs.img"
	ScriptFile = "boot.ipxe"
	machineDir = "machines"
)

// Export writes the set. The folder appears whole or not at all.
func Export(ctx context.Context, o Options) (err error) {
	if o.Say == nil {
		o.Say = func(string, ...any) {}
	}
	if o.Target == "" {
		o.Target = "blank"
	}
	if len(o.Modules) == 0 {
		o.Modules = []string{"generic", "netstack"}
	}
	e := &export{Options: o, out: filepath.Clean(o.Output)}
	if err := e.inputs(); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(e.out), 0o755); err != nil {
		return err
	}
	if e.work, err = os.MkdirTemp(filepath.Dir(e.out), "."+filepath.Base(e.out)+"-"); err != nil {
		return err
	}
	defer os.RemoveAll(e.work)
	raw, err := e.raw(ctx)
	if err != nil {
		return err
	}
	for _, step := range []struct {
		what string
		run  func(context.Context, string) error
	}{{"initramfs", e.initramfs}, {"image", e.pack}, {"manifest", e.sign}} {
		if err := step.run(ctx, raw); err != nil {
			return fmt.Errorf("export: %s: %w", step.what, err)
		}
		o.Say("%s is written", step.what)
	}
	return e.publish()
}

// netArch is what ward-netboot is built for, and iPXE asked for.
const netArch = "amd64"

type export struct {
	Options
	out, work string
	from      *builder.Manifest
	manifest  netimage.Manifest
	configs   map[string][]byte // by name of the file
	secret    []byte
	public    string
	ca        string
	init      []byte
}

// inputs reads and checks everything that a person gave; all faults at once.
func (e *export) inputs() error {
	var errs []error
	fault := func(err error) {
		if err != nil {
			errs = append(errs, err)
		}
	}
	if _, err := os.Lstat(e.out); err == nil {
		fault(fmt.Errorf("%s exists and is not replaced\nhint: name another folder with -o, or remove it", e.out))
	}
	var err error
	if e.from, err = builder.ReadManifest(e.Image); err != nil {
		fault(fmt.Errorf("image %s: %w\nhint: ward build makes one", e.Image, err))
	} else if err := e.from.Verify(e.Image); err != nil {
		fault(fmt.Errorf("image %s: %w", e.Image, err))
	} else if arch, err := e.from.Arch(); err != nil || arch != "" && arch != netArch {
		fault(errors.Join(err, fmt.Errorf("image %s: is for %s; only %s is installed over the network", e.Image, arch, netArch)))
	}
	if e.secret, err = os.ReadFile(e.Secret); err != nil {
		fault(fmt.Errorf("signing key: %w\nhint: ward key pxe makes one", err))
	} else if e.public, err = publicOf(e.secret); err != nil {
		fault(fmt.Errorf("%s: %w", e.Secret, err))
	}
	if ca, err := os.ReadFile(e.CA); err != nil {
		fault(fmt.Errorf("authority: %w\nhint: ward key pxe makes one", err))
	} else if err := checkCA(ca); err != nil {
		fault(fmt.Errorf("%s: %w", e.CA, err))
	} else {
		e.ca = string(ca)
	}
	if e.init, err = os.ReadFile(e.Init); err != nil {
		fault(fmt.Errorf("%w\nhint: ward and ward-netboot are built together by make build and must lie in one folder", err))
	}
	if e.URL != "" && !strings.HasPrefix(e.URL, "https://") {
		fault(fmt.Errorf("url: %q, want https://", e.URL))
	}
	if _, err := netimage.ParseRule(e.Target); err != nil {
		fault(err)
	}
	fault(e.machines())
	return errors.Join(errs...)
}

// machines reads the machines' configs.
func (e *export) machines() error {
	e.configs = map[string][]byte{}
	var errs []error
	for _, text := range e.Machines {
		m, config, err := machineOf(text)
		if err != nil {
			errs = append(errs, fmt.Errorf("machine %s: %w", text, err))
			continue
		}
		e.configs[m.Config] = config
		e.manifest.Machines = append(e.manifest.Machines, m)
	}
	return errors.Join(errs...)
}

// machineOf reads WHO=CONFIG[@RULE].
func machineOf(text string) (netimage.Machine, []byte, error) {
	who, file, ok := strings.Cut(text, "=")
	if !ok || who == "" || file == "" {
		return netimage.Machine{}, nil, errors.New("want MAC=CONFIG.ign or serial:S=CONFIG.ign, with @RULE behind it for its disk")
	}
	var m netimage.Machine
	if i := strings.LastIndexByte(file, '@'); i >= 0 {
		file, m.Target = file[:i], file[i+1:]
		if _, err := netimage.ParseRule(m.Target); err != nil {
			return m, nil, err
		}
	}
	if serial, ok := strings.CutPrefix(who, "serial:"); ok {
		m.Serial = serial
	} else {
		m.MAC = strings.ToLower(who)
	}
	config, err := os.ReadFile(file)
	if err != nil {
		return m, nil, err
	}
	if !json.Valid(config) || len(config) > netimage.MaxConfig {
		return m, nil, fmt.Errorf("%s is no Ignition config\nhint: ward machine FILE.yaml -o CONFIG.ign compiles one", file)
	}
	sum := sha256.Sum256(config)
	m.SHA256 = hex.EncodeToString(sum[:])
	m.Config = machineDir + "/" + m.SHA256[:16] + ".ign"
	return m, config, nil
}

// raw is the plain disk.
func (e *export) raw(ctx context.Context) (string, error) {
	if _, ok := e.from.Files["disk.raw"]; ok {
		return filepath.Join(e.Image, "disk.raw"), nil
	}
	if _, ok := e.from.Files["disk.qcow2"]; !ok {
		return "", fmt.Errorf("image %s has neither disk.raw nor disk.qcow2\nhint: add one of them to the image's formats", e.Image)
	}
	// Sparse: it takes the space of what is in it.
	to := filepath.Join(e.work, "disk.raw")
	return to, command.Run(ctx, e.Log, "qemu-img", "convert", "-f", "qcow2", "-O", "raw", filepath.Join(e.Image, "disk.qcow2"), to)
}

// initramfs builds the installing one, with modules of the image's own kernel.
func (e *export) initramfs(ctx context.Context, raw string) error {
	modules, err := e.kernelModules(ctx, raw)
	if err != nil {
		return err
	}
	pins, err := json.Marshal(netimage.Pins{Version: netimage.Version, PublicKey: e.public, CA: e.ca, URL: e.URL})
	if err != nil {
		return err
	}
	var out bytes.Buffer
	spec := initramfs.Spec{
		Init: e.init, KernelVersion: e.from.Kernel, ModulesFS: os.DirFS(modules), Modules: e.Modules,
		Config: handoff.Config{Version: handoff.Version, OnFailure: handoff.Halt},
		Files:  map[string][]byte{strings.TrimPrefix(netimage.PinsPath, "/"): pins},
	}
	if e.Live {
		if err := e.live(&spec); err != nil {
			return err
		}
	}
	_, err = initramfs.Build(&out, spec)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(e.work, InitrdFile), out.Bytes(), 0o644)
}

// kernelModules copies the modules out of the root file system, without a mount.
func (e *export) kernelModules(ctx context.Context, raw string) (string, error) {
	start, err := rootOffset(raw)
	if err != nil {
		return "", err
	}
	to := filepath.Join(e.work, "modules")
	if err := os.Mkdir(to, 0o700); err != nil {
		return "", err
	}
	for _, from := range []string{"/usr/lib/modules/", "/lib/modules/"} {
		// debugfs ends with 0 whatever happens; what counts is what it has written.
		argv := []string{"debugfs", "-R", fmt.Sprintf("rdump %s %s", from+e.from.Kernel, to), fmt.Sprintf("%s?offset=%d", raw, start)}
		if err := command.Run(ctx, e.Log, argv...); err != nil {
			return "", err
		}
		if dir := filepath.Join(to, e.from.Kernel); isDir(dir) {
			return dir, nil
		}
	}
	return "", fmt.Errorf("the image's root has no modules of kernel %s", e.from.Kernel)
}

func isDir(name string) bool {
	info, err := os.Stat(name)
	return err == nil && info.IsDir()
}

func rootOffset(raw string) (int64, error) {
	d, err := diskfs.Open(raw, diskfs.WithOpenMode(diskfs.ReadOnly))
	if err != nil {
		return 0, err
	}
	defer d.Close()
	t, err := d.GetPartitionTable()
	if err != nil {
		return 0, err
	}
	g, ok := t.(*gpt.Table)
	if !ok {
		return 0, fmt.Errorf("%s has no GPT", raw)
	}
	i := slices.IndexFunc(g.Partitions, func(p *gpt.Partition) bool { return strings.EqualFold(string(p.Type), handoff.RootType) })
	if i < 0 {
		return 0, fmt.Errorf("%s has no root partition", raw)
	}
	return g.Partitions[i].GetStart(), nil
}

// pack writes the compressed image.
func (e *export) pack(_ context.Context, raw string) error {
	in, err := os.Open(raw)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	out, err := os.Create(filepath.Join(e.work, netimage.DiskFile))
	if err != nil {
		return err
	}
	defer out.Close()
	if e.manifest.Disk, err = netimage.Pack(out, in, info.Size()); err != nil {
		return err
	}
	return out.Close()
}

// sign writes manifest, signature, configs, kernel and script.
func (e *export) sign(context.Context, string) error {
	e.manifest.Version, e.manifest.Image, e.manifest.Digest = netimage.Version, e.from.Image, e.from.Digest
	e.manifest.Made, e.manifest.Target = e.from.Made, e.Target
	if err := e.manifest.Validate(); err != nil {
		return err
	}
	text, err := json.MarshalIndent(e.manifest, "", " ")
	if err != nil {
		return err
	}
	text = append(text, '\n')
	sig, err := netimage.Sign(e.secret, text, fmt.Sprintf("image %s digest %s", e.from.Image, e.from.Digest))
	if err != nil {
		return err
	}
	if err := os.Mkdir(filepath.Join(e.work, machineDir), 0o700); err != nil {
		return err
	}
	for name, config := range e.configs {
		if err := os.WriteFile(filepath.Join(e.work, name), config, 0o600); err != nil {
			return err
		}
	}
	for name, data := range map[string][]byte{
		netimage.ManifestFile: text, netimage.SignatureFile: sig, ScriptFile: []byte(Script(e.URL, append(e.words(), e.Append...))),
	} {
		if err := os.WriteFile(filepath.Join(e.work, name), data, 0o644); err != nil {
			return err
		}
	}
	return copyFile(filepath.Join(e.work, KernelFile), filepath.Join(e.Image, KernelFile))
}

func (e *export) publish() error {
	for _, name := range []string{"modules", "disk.raw"} {
		if err := os.RemoveAll(filepath.Join(e.work, name)); err != nil {
			return err
		}
	}
	if err := os.Chmod(e.work, 0o755); err != nil {
		return err
	}
	d, err := os.Open(e.work)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := unix.Syncfs(int(d.Fd())); err != nil {
		return fmt.Errorf("sync %s: %w", e.work, err)
	}
	return os.Rename(e.work, e.out)
}

func copyFile(to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

func checkCA(text []byte) error {
	block, _ := pem.Decode(text)
	if block == nil {
		return errors.New("no PEM certificate")
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return err
	}
	if !c.IsCA {
		return fmt.Errorf("the certificate of %s is no authority's", c.Subject.CommonName)
	}
	return nil
}
