package main

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"ward/builder/pxe"
)

// pxe is ward pxe.
func (p *program) pxe() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "pxe COMMAND",
		Short: "install machines over the network",
		Long: `pxe makes a set of files from which a bare machine installs itself over the network,
and serves such a set in a laboratory. The machine checks the manifest's signature and
every part of the image before it writes its disk.`,
		Args: p.noSuchCommand,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cmd.Help()
			return usage("ward pxe: no command is given")
		},
	}
	cmd.AddCommand(p.pxeExport(), p.pxeServe())
	return cmd
}

func (p *program) pxeExport() *cobra.Command {
	var o pxe.Options
	var keys string
	cmd := &cobra.Command{
		Use:   "export DIR -o OUT [flags]",
		Short: "write kernel, initramfs, iPXE script, signed manifest and compressed image",
		Long: `export writes a folder for an installation over the network: vmlinuz, initramfs.img
(which installs, and trusts one authority and one signing key), boot.ipxe, netboot.json
with its signature netboot.json.minisig, disk.zst, and the configs of the machines that
are named with --machine. DIR is what ward build wrote.

A disk rule is blank (the only disk without data), serial:S, wwn:W or size:MIN-MAX. A
disk with data is written only if its serial number is named. With --live nothing is
installed: root is loaded into memory at each boot, and lost at its end; patients' data
are on a partition of their own, which a rule of the machine or the kernel line has made
on a blank disk. A config holds password
hashes and keys; whoever reaches the server by HTTPS and knows its name can read it.`,
		Example: `  ward key pxe keys --host 192.0.2.10
  ward pxe export out/debian-12 -o out/pxe --keys keys --url https://192.0.2.10:8443/ --machine 52:54:00:12:34:56=db1.ign
  ward pxe export out/debian-12 -o out/pxe --keys keys --machine serial:CZ1234=db1.ign@serial:S3Z8NB0K`,
		Args: args(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.Output == "" {
				return usage("ward pxe export: the folder to write is missing\nhint: -o OUT")
			}
			if o.Secret == "" {
				o.Secret = filepath.Join(keys, pxe.SecretFile)
			}
			if o.CA == "" {
				o.CA = filepath.Join(keys, pxe.CAFile)
			}
			self, err := os.Executable()
			if err != nil {
				return err
			}
			o.Image, o.Init, o.Log = args[0], filepath.Join(filepath.Dir(self), "ward-netboot"), p.log
			o.Say = func(format string, a ...any) { fmt.Fprintf(p.out, format+"\n", a...) }
			if err := pxe.Export(cmd.Context(), o); err != nil {
				return err
			}
			fmt.Fprintf(p.out, "%s is ready; ward pxe serve %s serves it\n", o.Output, o.Output)
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVarP(&o.Output, "output", "o", "", "folder to write; it must not exist")
	f.BoolVar(&o.Live, "live", false, "nothing is installed: root is loaded into memory at each boot, patients' data alone are on a disk")
	f.StringVar(&keys, "keys", "keys", "folder that ward key pxe made")
	f.StringVar(&o.Secret, "sign", "", "signing key, in minisign's format and not encrypted (default sign.key of --keys)")
	f.StringVar(&o.CA, "ca", "", "authority that the machine trusts, PEM (default ca.pem of --keys)")
	f.StringVar(&o.URL, "url", "", "where the set will be served by HTTPS; without it the kernel line says so")
	f.StringVar(&o.Target, "disk", "blank", "rule for the disk of machines that have none of their own")
	f.StringArrayVar(&o.Machines, "machine", nil, "MAC=CONFIG.ign or serial:S=CONFIG.ign, with @RULE behind it for its disk; may be given again")
	f.StringSliceVar(&o.Modules, "modules", nil, "sets of kernel modules and modules of the initramfs (default generic,netstack)")
	f.StringArrayVar(&o.Append, "append", nil, "word for the kernel line; may be given again")
	return cmd
}

func (p *program) pxeServe() *cobra.Command {
	var s pxe.Service
	var keys string
	cmd := &cobra.Command{
		Use:   "serve DIR [flags]",
		Short: "serve such a folder in a laboratory: HTTPS, HTTP, TFTP, proxy DHCP",
		Long: `serve serves what ward pxe export wrote, until it is interrupted. By HTTP and TFTP go
only kernel, initramfs, script and iPXE; the rest goes by HTTPS. What machines report is
on standard error, the reason of a refusal too. Proxy DHCP answers firmware that wants to
boot, beside the network's own DHCP server; it needs port 67 and so root.`,
		Example: `  ward pxe serve out/pxe --keys keys --address 192.0.2.10 --https 8443 --http 8080 --tftp 69 --dhcp 67
  ward pxe serve out/pxe --keys keys            # 127.0.0.1, free ports, no TFTP and DHCP`,
		Args: args(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s.Dir = args[0]
			if s.Cert == "" {
				s.Cert, s.Key = filepath.Join(keys, pxe.CertFile), filepath.Join(keys, pxe.KeyFile)
			}
			s.Log = slog.New(slog.NewTextHandler(p.err, nil))
			srv, err := pxe.Start(s)
			if err != nil {
				return err
			}
			for _, l := range []struct{ what, addr string }{{"https", srv.HTTPSAddr}, {"http", srv.HTTPAddr}, {"tftp", srv.TFTPAddr}, {"dhcp", srv.DHCPAddr}} {
				if l.addr != "" {
					fmt.Fprintf(p.out, "%-6s%s\n", l.what, l.addr)
				}
			}
			return srv.Wait(cmd.Context())
		},
	}
	f := cmd.Flags()
	f.StringVar(&keys, "keys", "keys", "folder that ward key pxe made")
	f.StringVar(&s.Cert, "cert", "", "certificate of the server, PEM (default server.pem of --keys)")
	f.StringVar(&s.Key, "key", "", "its private key, with --cert")
	f.StringVar(&s.Address, "address", "127.0.0.1", "address to listen on")
	f.StringVar(&s.Public, "public", "", "address by which machines reach it (default: --address)")
	f.IntVar(&s.HTTPS, "https", 0, "port; 0 is any free one, -1 is off")
	f.IntVar(&s.HTTP, "http", 0, "port; 0 is any free one, -1 is off")
	f.IntVar(&s.TFTP, "tftp", -1, "port; 0 is any free one, -1 is off")
	f.IntVar(&s.DHCP, "dhcp", -1, "port; 0 is any free one, -1 is off")
	f.StringVar(&s.Loaders, "ipxe", "/usr/lib/ipxe", "folder with undionly.kpxe and snponly.efi, for --tftp")
	f.StringArrayVar(&s.Append, "append", nil, "word for the kernel line; may be given again")
	return cmd
}

// keyPXE is ward key pxe.
func (p *program) keyPXE() *cobra.Command {
	var hosts []string
	cmd := &cobra.Command{
		Use:   "pxe DIR --host NAME",
		Short: "make the keys of an installation over the network",
		Long: `pxe makes a folder with sign.key and sign.pub (minisign's format; the manifest is signed
with it), ca.pem (the only authority that an installing machine trusts), server.pem and
server.key (the server's certificate, for two years). sign.key is not encrypted: keep it
where images are released, it is not needed where they are served.`,
		Example: `  ward key pxe keys --host 192.0.2.10 --host pxe.example.org`,
		Args:    args(1, 1),
		RunE: func(_ *cobra.Command, args []string) error {
			if len(hosts) == 0 {
				return usage("ward key pxe: the server's name or address is missing\nhint: --host NAME")
			}
			if err := pxe.NewKeys(args[0], hosts); err != nil {
				return err
			}
			fmt.Fprintf(p.out, "%s holds %s, %s, %s, %s and %s\n", args[0], pxe.SecretFile, pxe.PublicFile, pxe.CAFile, pxe.CertFile, pxe.KeyFile)
			return nil
		},
	}
	cmd.Flags().StringArrayVar(&hosts, "host", nil, "name or address of the server; may be given again")
	return cmd
}
