package disk

import (
	"context"
	"fmt"
	"log/slog"

	"ward/builder/command"
)

// Format is a disk format beside raw.
type Format struct {
	Name    string // in the image file
	Driver  string // of qemu-img
	options []string
}

// Formats are the formats that Convert writes, beside the qcow2 of WriteQCOW2.
// qemu-img reads only the parts of
// the raw disk that hold data, so none of them costs what the disk is large.
var Formats = []Format{
	// streamOptimized is compressed, and the only form that an OVA may carry into
	// vSphere (Virtual Disk Format 5.0, 4.2).
	{"vmdk", "vmdk", []string{"-o", "subformat=streamOptimized"}},
	// Azure takes fixed disks of whole MiB alone, and without force_size qemu-img
	// rounds the size to a cylinder (Azure, "Prepare a VHD", qemu-img(1)).
	{"vhd", "vpc", []string{"-o", "subformat=fixed,force_size=on"}},
	{"vhdx", "vhdx", []string{"-o", "subformat=dynamic"}},
}

// FindFormat returns the format of that name.
func FindFormat(name string) (Format, error) {
	for _, f := range Formats {
		if f.Name == name {
			return f, nil
		}
	}
	return Format{}, fmt.Errorf("disk: format %q is not known", name)
}

// Convert writes a raw disk to a new file in another format.
func Convert(ctx context.Context, log *slog.Logger, f Format, raw, to string) error {
	argv := append([]string{"qemu-img", "convert", "-f", "raw", "-O", f.Driver, "-m", "4"}, f.options...)
	return command.Run(ctx, log, append(argv, raw, to)...)
}
