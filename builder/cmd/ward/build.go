package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"ward/builder"
	"ward/builder/lock"
	"ward/builder/provenance"
	"ward/builder/registry"
	"ward/builder/secureboot"
	"ward/images"
	"ward/images/strict"
	"ward/profiles"
)

const profileHelp = "profile: a name such as hipaa, or a .yaml file"

// inputs reads image and profile; the faults of both are one error.
func inputs(image, profile string) (*images.Image, *profiles.Profile, error) {
	img, imgErr := images.Load(image)
	prof, profErr := profiles.Load(profile)
	if err := errors.Join(imgErr, profErr); err != nil {
		return nil, nil, err
	}
	return img, prof, builder.CheckVolumes(shown("image", image), img, shown("profile", profile), prof)
}

// shown is how messages call a file of that kind, or the one that comes with ward.
func shown(kind, nameOrPath string) string {
	if profiles.IsFile(nameOrPath) {
		return strict.Shown(nameOrPath)
	}
	return kind + " " + nameOrPath
}

// archive says where packages come from instead of where the image file says.
type archive struct {
	mirrors []string
	keyring string
}

func (a *archive) flags(f *pflag.FlagSet) {
	f.StringArrayVar(&a.mirrors, "mirror", nil, `URL of a mirror, or a line "deb ...", instead of the image file's; may be given again`)
	f.StringVar(&a.keyring, "keyring", "", "file with the keys that the mirror's index is signed with, instead of the image file's")
}

// put changes an image that was read; the keyring may be named as seen from here.
func (a *archive) put(img *images.Image) (err error) {
	keyring := a.keyring
	if keyring != "" {
		if keyring, err = filepath.Abs(keyring); err != nil {
			return err
		}
	}
	return img.SetMirrors(a.mirrors, keyring)
}

// build is ward build.
func (p *program) build() *cobra.Command {
	var o builder.Options
	var profile, locked, sign, bootKey, bootCert string
	var caches []string
	var from archive
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "build IMAGE [flags]",
		Short: "bake an image",
		Long: `build bakes an image: real packages, the profile's safeguards in the tree, a Go
initramfs, a disk with ESP, root and blank partitions for patients' data. It needs
no loop device and no device-mapper. The output folder appears whole or
not at all; when nothing changed nothing is written.

IMAGE is a name that "ward list" prints, or a .yaml file.`,
		Example: `  ward build debian-12
  ward build debian-12 --profile ./clinic.yaml -o out/clinic
  ward build ./clinic-image.yaml --update
  ward build debian-12 --mirror https://mirror.example.org/debian --keyring mirror.gpg
  ward build debian-12 --locked debian-12.lock --offline
  ward build debian-12 --sign keys/sign.key
  ward build debian-12 --cache oci://registry.example.org/ward/cache
  ward build debian-12 --secure-boot-key keys/db.key --secure-boot-cert keys/db.pem`,
		Args:              args(1, 1),
		ValidArgsFunction: cobra.FixedCompletions(imageNames(), cobra.ShellCompDirectiveDefault),
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.Offline && locked == "" {
				return usage("ward build: --offline goes with --locked\nhint: ward lock %s writes the lock", args[0])
			}
			img, prof, err := inputs(args[0], profile)
			if err != nil {
				return err
			}
			if err := from.put(img); err != nil {
				return err
			}
			if locked != "" {
				if o.Lock, err = lock.Read(locked); err != nil {
					return err
				}
			}
			if (bootKey == "") != (bootCert == "") {
				return usage("ward build: --secure-boot-key and --secure-boot-cert go together")
			}
			if bootKey != "" {
				if o.SecureBoot, err = secureboot.Open(bootKey, bootCert); err != nil {
					return err
				}
			}
			o.Image, o.Profile, o.Version, o.Log = img, prof, ownVersion(), p.log
			embedded := slices.ContainsFunc(prof.Controls.PHI.KeySources, func(k profiles.KeySource) bool { return k.Type == "embedded" })
			switch {
			case embedded && o.EmbedKey == "":
				return usage("ward build: profile %s has the key source embedded, and no key is given\nhint: --embed-key FILE, for a laboratory only", prof.Name)
			case !embedded && o.EmbedKey != "":
				return usage("ward build: --embed-key: profile %s has no key source embedded\nhint: init would not look at the key", prof.Name)
			case embedded:
				p.log.Warn("the key of patients' data is in the image: whoever has the image can read them", "for", "laboratories only", "verify", "fails unless waived")
			}
			if o.EmbedKey != "" { // it is read in a namespace, from another folder
				if o.EmbedKey, err = filepath.Abs(o.EmbedKey); err != nil {
					return err
				}
			}
			if slices.ContainsFunc(caches, registry.Is) {
				o.Remote = caches[slices.IndexFunc(caches, registry.Is)]
				if err := registry.Check(o.Remote, false); err != nil {
					return err
				}
			}
			folders := slices.DeleteFunc(slices.Clone(caches), registry.Is)
			if len(folders) > 1 || len(caches)-len(folders) > 1 {
				return usage("ward build: --cache: want at most one folder and one registry")
			}
			if len(folders) == 1 {
				o.Cache = folders[0]
			}
			if sign != "" {
				if o.Sign, err = provenance.ReadSigner(sign); err != nil {
					return err
				}
			}
			if o.Output == "" {
				o.Output = filepath.Join("out", img.Name)
			}
			if o.Binaries, err = builder.Beside(); err != nil {
				return err
			}
			return p.bake(cmd.Context(), o, asJSON)
		},
	}
	f := cmd.Flags()
	f.StringVarP(&profile, "profile", "p", "hipaa", profileHelp)
	f.StringVarP(&o.Output, "output", "o", "", "folder of the result (default out/IMAGE)")
	f.StringArrayVar(&caches, "cache", nil, "folder of the cache (default ~/.cache/ward); oci://HOST/NAME: registry that shares packages between machines, beside it; may be given again")
	f.StringVar(&locked, "locked", "", "lock file: build from exactly its packages")
	from.flags(f)
	f.BoolVar(&o.Offline, "offline", false, "with --locked: use the package store alone, no network")
	f.BoolVar(&asJSON, "json", false, "print what happens as JSON, an object a line, for other programs")
	f.StringVar(&sign, "sign", "", "secret key that signs the provenance: of minisign without a password, or ECDSA P-256 in PEM, which signs a DSSE envelope as cosign does")
	f.StringVar(&o.EmbedKey, "embed-key", "", "for laboratories: key file to put into the image, for the key source embedded")
	f.BoolVar(&o.Check, "check", false, "read the whole output before it is taken for up to date; without it sizes and times are compared")
	f.StringVar(&bootKey, "secure-boot-key", "", "private key (RSA, PEM; or pkcs11:URI of one in a token) that signs boot loader and kernel image for Secure Boot")
	f.StringVar(&bootCert, "secure-boot-cert", "", "its certificate (PEM), which the firmware has in db")
	f.BoolVar(&o.Update, "update", false, "ask the mirror again even if the packages are in the cache")
	return cmd
}

// bake builds and says how it goes: a line a step and a summary, or JSON.
func (p *program) bake(ctx context.Context, o builder.Options, asJSON bool) error {
	if asJSON {
		return p.bakeJSON(ctx, o)
	}
	start := time.Now()
	show := newProgress(p.out, terminal(p.out))
	o.Events = show.event
	manifest, err := builder.Build(ctx, o)
	show.close()
	if err != nil {
		return err
	}
	fmt.Fprintf(p.out, "\n%s with profile %s, kernel %s, in %s\n", manifest.Image, manifest.Profile, manifest.Kernel, round(time.Since(start)))
	for _, name := range sorted(manifest.Files) {
		fmt.Fprintf(p.out, "  %-40s %10s\n", filepath.Join(o.Output, name), bytesText(manifest.Files[name].Size))
	}
	fmt.Fprintf(p.out, "next: ward test %s\n", o.Output)
	return nil
}

// bakeJSON builds and prints each event as an object on a line of its own, the
// last one "finished" with the output. An error goes to standard error as always,
// and is in the event "failed" too.
func (p *program) bakeJSON(ctx context.Context, o builder.Options) error {
	e := json.NewEncoder(p.out)
	o.Events = func(event builder.Event) { e.Encode(jsonEvent(event, time.Now())) }
	manifest, err := builder.Build(ctx, o)
	if err != nil {
		return err
	}
	return e.Encode(map[string]any{"kind": "finished", "time": time.Now().UTC().Format(time.RFC3339Nano), "output": o.Output, "digest": manifest.Digest, "files": manifest.Files})
}

// jsonEvent is an event as other programs read it; what it does not have is left out.
func jsonEvent(e builder.Event, at time.Time) any {
	v := struct {
		Kind   builder.EventKind `json:"kind"`
		Time   string            `json:"time"`
		Step   string            `json:"step"`
		Number int               `json:"number"`
		Total  int               `json:"total"`
		Text   string            `json:"text,omitempty"`
		Have   int64             `json:"have,omitempty"`    // bytes
		Want   int64             `json:"want,omitempty"`    // bytes
		Millis int64             `json:"took_ms,omitempty"` // of a step that has ended
		Bytes  int64             `json:"bytes,omitempty"`   // of its result
		Error  string            `json:"error,omitempty"`
	}{e.Kind, at.UTC().Format(time.RFC3339Nano), e.Step, e.Number, e.Total, e.Text, e.Have, e.Want, e.Took.Milliseconds(), e.Bytes, ""}
	if e.Err != nil {
		v.Error = e.Err.Error()
	}
	return v
}

// plan is ward plan.
func (p *program) plan() *cobra.Command {
	var profile string
	cmd := &cobra.Command{
		Use:   "plan IMAGE [flags]",
		Short: "check image and profile, and print what a build would do",
		Long: `plan reads image and profile as a build does, says everything that is wrong with
them at once, and prints the steps of the build. It changes nothing.`,
		Example: `  ward plan debian-12
  ward plan ./clinic-image.yaml --profile ./clinic.yaml`,
		Args:              args(1, 1),
		ValidArgsFunction: cobra.FixedCompletions(imageNames(), cobra.ShellCompDirectiveDefault),
		RunE: func(cmd *cobra.Command, args []string) error {
			img, prof, err := inputs(args[0], profile)
			if err != nil {
				return err
			}
			steps, err := builder.Plan(builder.Options{Image: img, Profile: prof, Output: filepath.Join("out", img.Name), Version: ownVersion(), Log: p.log})
			if err != nil {
				return err
			}
			row, err := img.Row()
			if err != nil {
				return err
			}
			kernel, err := img.KernelPackage()
			if err != nil {
				return err
			}
			fmt.Fprintf(p.out, "image    %s: %s %s, %s, %s\n", img.Name, row.ID, row.Version, img.Arch, kernel)
			state := ""
			if prof.Controls.Integrity.Root == profiles.RootVerity {
				state = fmt.Sprintf(" (read-only, verified), state %s", cmp.Or(img.Disk.State, images.DefaultState))
			}
			fmt.Fprintf(p.out, "disk     ESP %s, root %s%s, PHI %s\n", img.Disk.ESP, img.Disk.Root, state, img.Disk.PHI)
			for _, v := range prof.Controls.PHI.Volumes {
				fmt.Fprintf(p.out, "volume   %s %s at %s\n", v.Name, img.Disk.Volumes[v.Name], v.Mount)
			}
			fmt.Fprintf(p.out, "profile  %s, %d waivers\n", prof.Name, len(prof.Waivers))
			for i, step := range steps {
				fmt.Fprintf(p.out, "step %d   %s\n", i+1, step.Name)
			}
			return nil
		},
	}
	cmd.Flags().StringVarP(&profile, "profile", "p", "hipaa", profileHelp)
	return cmd
}

// inside is the hidden half of build that runs inside a namespace.
func (p *program) inside() *cobra.Command {
	return &cobra.Command{
		Use: builder.InsideCommand, Hidden: true, Args: args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return builder.ServeInside(cmd.Context(), p.log, p.in, p.out)
		},
	}
}

func imageNames() []string { return images.Names() }

// verify is ward verify.
func (p *program) verify() *cobra.Command {
	var public string
	cmd := &cobra.Command{
		Use:   "verify DIR [flags]",
		Short: "compare every file of a built image with its manifest and its provenance",
		Long: `verify reads the files of a folder that "ward build" wrote and compares them with the
digests in its manifest, in SHA256SUMS and in its provenance. It names every file that
differs or is missing. With --key it checks who signed the provenance, which names all
else: without it, somebody who changed everything consistently is not found.`,
		Example: `  ward verify out/debian-12
  ward verify out/debian-12 --key keys/sign.pub`,
		Args: args(1, 1),
		RunE: func(cmd *cobra.Command, list []string) error {
			key, err := verifier(public)
			if err != nil {
				return err
			}
			if _, err := diskOf(list[0]); err != nil {
				return err
			}
			manifest, signature, err := builder.VerifyOutput(cmd.Context(), list[0], key)
			if err != nil {
				return err
			}
			fmt.Fprintf(p.out, "%s: %d files are as they were built (inputs %s); %s\n", list[0], len(manifest.Files), manifest.Digest, signature)
			return nil
		},
	}
	cmd.Flags().StringVar(&public, "key", "", "public key of who signed: of minisign, or ECDSA P-256 in PEM")
	return cmd
}
