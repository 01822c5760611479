package vm

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files anew")

// TestArgs shows the command lines in full: what a machine is, is there to read.
func TestArgs(t *testing.T) {
	for _, c := range []struct {
		name   string
		config Config
		wiring wiring
	}{
		{"uefi", Config{Image: "x", Key: "/k/key.img", Ignition: "/k/a,b.ign"},
			wiring{accel: "tcg", disk: "/s/disk.qcow2", code: "/f/code.fd", vars: "/s/vars.qcow2"}},
		{"direct", Config{Firmware: "direct", Kernel: "/i/vmlinuz", Initrd: "/i/initramfs.img", Append: "root=x", Bus: "nvme", NoReboot: true, NoRoute: true},
			wiring{accel: "kvm", disk: "/s/disk.qcow2"}},
		{"disks", Config{Firmware: "bios", Bus: "scsi", Key: "/k/key.img", KeyBus: "usb", Capture: "/c/net.pcap", CPUs: 4, MemoryMB: 512, SSHPort: 2222,
			Disks: []Disk{{File: "/d/1", Format: "raw", Bus: "nvme"}, {File: "/d/2", Format: "qcow2", Bus: "scsi", Serial: "s,1", ReadOnly: true}}},
			wiring{accel: "tcg", disk: "/s/disk.qcow2", tpm: "/s/tpm/socket"}},
		{"secureboot", Config{Image: "x", SecureBoot: "/k/keys"}, wiring{accel: "tcg", disk: "/s/disk.qcow2", code: "/f/code.fd", vars: "/s/vars.qcow2"}},
		{"arm64", Config{Arch: "arm64", Image: "x", Key: "/k/key.img", TPM: true},
			wiring{accel: "tcg", disk: "/s/disk.qcow2", code: "/f/code.fd", vars: "/s/vars.qcow2", tpm: "/s/tpm/socket"}},
		{"terminal", Config{Firmware: "bios", ConsoleLog: "/c/console.log"}, wiring{accel: "tcg", disk: "/s/disk.qcow2", terminal: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var b strings.Builder
			var err error
			if c.wiring.board, err = boardOf(c.config.Arch); err != nil {
				t.Fatal(err)
			}
			for _, a := range args(c.config.withDefaults(), c.wiring) {
				if strings.HasPrefix(a, "-") {
					b.WriteString("\n")
				} else {
					b.WriteString(" ")
				}
				b.WriteString(a)
			}
			got := strings.TrimPrefix(b.String(), "\n") + "\n"
			golden := filepath.Join("testdata", c.name+".args")
			if *update {
				if err := os.MkdirAll("testdata", 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}
